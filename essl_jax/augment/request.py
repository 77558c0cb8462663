"""Requests of methods and terms for views of the images."""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax
import jax

from essl_jax.augment.parameters import ViewParameters
from essl_jax.augment.view import View

Transform = Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]]
"""`(images [N, H, H, C] in [0, 1], keys [N]) -> (images [K N, H, H, C],
targets)`: K copies, the first of all images, then the second; targets are a
tree of arrays that lead with N or K N rows."""


class DrawnView(flax.struct.PyTreeNode):
  """How a view of N images was drawn.

  Attributes:
    parameters: what was done to each image.
    view: how it is drawn; static.
    extra: one more group, as of `random_view`; static.
  """

  parameters: ViewParameters
  view: View = flax.struct.field(pytree_node=False)
  extra: str | None = flax.struct.field(pytree_node=False, default=None)


@dataclasses.dataclass(frozen=True)
class ViewRequest:
  """One view of every image that the encoder is to see.

  Two requests of one name must be equal, but for `shared_by` and `parameters`:
  the view is drawn and encoded once, for both who ask.

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
    shared_by: how many consecutive images of the batch share each draw. Of two
      requests that differ in it, the larger one holds, a multiple of the other.
    chunks: instead of `shared_by`, the number of chunks of consecutive images
      that the batch is divided into. The images of a chunk share their draws.
      0 means no chunks.
    parameters: whether what was done to each image is handed over too.

  Raises:
    ValueError: draws or shared_by is below 1, or chunks below 0, or two of
      draw_of, shared_by and chunks are given.
  """

  name: str
  view: View
  extra: str | None = None
  draw_of: str | None = None
  transform: Transform | None = None
  draws: int = 1
  shared_by: int = 1
  chunks: int = 0
  parameters: bool = False

  def __post_init__(self) -> None:
    for name, least in (("draws", 1), ("shared_by", 1), ("chunks", 0)):
      value = getattr(self, name)
      if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    sharing = {
      "draw_of": self.draw_of is not None,
      "shared_by": self.shared_by > 1,
      "chunks": self.chunks > 0,
    }
    given = [
      f"{x}={getattr(self, x)}" for x, is_set in sharing.items() if is_set
    ]
    if len(given) > 1:
      raise ValueError(
        f"{' and '.join(given)} each say which draws images share: give one"
      )

  def images_per_draw(self, images: int) -> int:
    """How many consecutive images of a whole batch share each draw.

    Args:
      images: of the batch.

    Returns:
      A number that divides it.

    Raises:
      ValueError: the batch cannot be divided so.
    """
    what = f"chunks={self.chunks}" if self.chunks else ""
    what = what or f"shared_by={self.shared_by}"
    if images % (self.chunks or self.shared_by):
      raise ValueError(
        f"{what} of the view {self.name!r} must divide the {images} images of a"
        " batch"
      )
    return images // self.chunks if self.chunks else self.shared_by

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


def window_name(crop: str) -> str:
  """What the windows of a crop that the host cuts are called in a batch."""
  return f"window of {crop}"


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
