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
      over; None has its own.
    transform: what is done to the pixels of the view before they are
      normalised, such as applying every element of a group.
  """

  name: str
  view: View
  extra: str | None = None
  draw_of: str | None = None
  transform: Transform | None = None


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
