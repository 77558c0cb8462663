"""Requests of methods and terms for views of the images."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax

from essl_jax.augment.view import View

Transform = Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]]
"""`(images [N, H, H, C] in [0, 1], keys [N]) -> (images [K N, H, H, C],
targets)`: K copies, the first of all images, then the second; targets are a
tree of arrays that lead with N or K N rows."""


@dataclasses.dataclass(frozen=True)
class ViewRequest:
  """One view of every image that the encoder is to see.

  Two requests of one name must be equal: the view is drawn and encoded once,
  for both who ask.

  Attributes:
    name: of the view, by which its features are handed over.
    view: how it is drawn; `plain_view` leaves the image as it is but for its
      size.
    extra: one more group, as of `random_view`.
    draw_of: the name of another request whose random draws this one takes
      over, as many as that has; None has its own.
    transform: what is done to the pixels of the view before they are
      normalised, such as applying every element of a group. It gets all draws
      at once, as copies, with a key for each.
    draws: how many views of each image it stands for, drawn apart from each
      other. They are copies [draws N, H, W, C] that the encoder sees together.

  Raises:
    ValueError: draws is below 1.
  """

  name: str
  view: View
  extra: str | None = None
  draw_of: str | None = None
  transform: Transform | None = None
  draws: int = 1

  def __post_init__(self) -> None:
    if self.draws < 1:
      raise ValueError(f"draws must be at least 1, got {self.draws}")

  @property
  def draw_names(self) -> tuple[str, ...]:
    """The names of its draws, which are those of crops that the host makes."""
    return self._numbered(self.draw_of or self.name)

  @property
  def transform_names(self) -> tuple[str, ...]:
    """The names of the draws of its transform."""
    return self._numbered(self.name)

  def _numbered(self, name: str) -> tuple[str, ...]:
    if self.draws == 1:
      return (name,)
    return tuple(f"{name} {i}" for i in range(1, self.draws + 1))


def plain_view(view: View, size: int | None = None) -> View:
  """The view of an image that is resized and nothing else.

  Args:
    view: whose size, interpolation, mean and std it has.
    size: another size in pixels.

  Returns:
    The view; of an image that is not square, it shows the middle.
  """
  return View(
    size=view.size if size is None else size,
    scale=(1.0, 1.0),
    ratio=(1.0, 1.0),
    interpolation=view.interpolation,
    flip=0.0,
    jitter_probability=0.0,
    grayscale=0.0,
    mean=view.mean,
    std=view.std,
  )
