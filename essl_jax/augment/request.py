"""Views of the images, as methods and terms request them."""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax
import jax

from essl_jax.augment.parameters import ViewParameters
from essl_jax.augment.view import View

Transform = Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]]
"""`(images [N, H, H, C] in [0, 1], keys [N]) -> (images [K N, H, H, C],
targets)`: K copies, the first copy of all images, then the second, and so on.
Targets are a tree of arrays with N or K N rows."""


class DrawnView(flax.struct.PyTreeNode):
  """How a view of N images was drawn.

  Attributes:
    parameters: what was done to each image.
    view: the settings it was drawn with; static.
    extra: one more group, as in `random_view`; static.
  """

  parameters: ViewParameters
  view: View = flax.struct.field(pytree_node=False)
  extra: str | None = flax.struct.field(pytree_node=False, default=None)


@dataclasses.dataclass(frozen=True)
class ViewRequest:
  """One view of every image for the encoder to see.

  Two requests with the same name must be equal, except in `shared_by` and
  `parameters`: the view is drawn and encoded once for both.

  Attributes:
    name: name of the view; its features are found by it.
    view: how to draw it; `plain_view` only resizes the image.
    extra: one more group, as in `random_view`.
    draw_of: the name of another request whose random draws this one reuses,
      with the same number of draws. None makes its own draws.
    transform: applied to the view's pixels before normalisation, for example
      to apply every element of a group. It gets all draws at once, as copies,
      with one key each.
    draws: how many independent views of each image to draw. The encoder sees
      them together, as copies [draws N, H, W, C].
    shared_by: how many consecutive images of the batch share each draw. If two
      requests differ in it, the larger one is used, which must be a multiple of
      the other.
    chunks: alternative to `shared_by`: the number of chunks of consecutive
      images that the batch is divided into. The images of a chunk share their
      draws. 0 means no chunks.
    parameters: whether to also return what was done to each image.

  Raises:
    ValueError: draws or shared_by is below 1, chunks is below 0, or more than
      one of draw_of, shared_by and chunks is given.
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
        f"{' and '.join(given)} each set which draws images share: give one"
      )

  def images_per_draw(self, images: int) -> int:
    """Returns how many consecutive images of a whole batch share each draw.

    Args:
      images: number of images in the batch.

    Returns:
      A divisor of `images`.

    Raises:
      ValueError: `shared_by` or `chunks` does not divide the batch.
    """
    what = f"chunks={self.chunks}" if self.chunks else ""
    what = what or f"shared_by={self.shared_by}"
    if images % (self.chunks or self.shared_by):
      raise ValueError(
        f"{what} of the view {self.name!r} must divide the batch size {images}"
      )
    return images // self.chunks if self.chunks else self.shared_by

  @property
  def draw_names(self) -> tuple[str, ...]:
    """The names of its draws; crops made on the host have the same names."""
    return self._numbered(self.draw_of or self.name)

  @property
  def transform_names(self) -> tuple[str, ...]:
    """The names of its transform's draws."""
    return self._numbered(self.name)

  def _numbered(self, name: str) -> tuple[str, ...]:
    if self.draws == 1:
      return (name,)
    return tuple(f"{name} {i}" for i in range(1, self.draws + 1))


def window_name(crop: str) -> str:
  """Returns the batch key under which the windows of a host crop are stored."""
  return f"window of {crop}"


def plain_view(view: View, size: int | None = None) -> View:
  """Makes a view that only resizes an image.

  Args:
    view: a view to copy size, interpolation, mean and std from.
    size: another size in pixels.

  Returns:
    The view. It shows the middle of images that are not square.
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
