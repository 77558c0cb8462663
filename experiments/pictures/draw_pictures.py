r"""Draws what methods, terms, views and groups do, for the documentation.

  pip install scikit-image    # its pictures
  python experiments/pictures/draw_pictures.py --out=docs/pictures
  python experiments/pictures/draw_pictures.py --out=FOLDER \
    --pictures a.jpg b.jpg

Everything shown was made by `essl_jax.augment` and `essl_jax.transformations`,
as in training. The cat is Chelsea, by Stéfan van der Walt, the cup
is by Rachel Michetti (both CC0).
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
import sys
from typing import Any

from canvas import BLUE, ORANGE, Canvas
import numpy as np
import panels
from PIL import Image
import views

from essl_jax import arguments, transformations
from essl_jax.errors import UsageError

_SHOWN = 8  # elements of a group at most
Pictures = Sequence[np.ndarray]  # two, uint8 [H, H, 3]


def overview(pictures: Pictures) -> Canvas:
  """Two views made invariant, four rotations of a third predicted."""
  canvas, picture = Canvas(8.6, 3.2), pictures[0]
  pair = views.pair(picture)
  turned = views.rotations(views.draw(picture, views.CROP, 1, 5)[0])
  canvas.picture(0.1, 1.1, 1.3, picture / 255)
  canvas.text(0.75, 2.55, "an image", place="center")
  for height, image in zip((0.12, 1.0), pair, strict=True):
    canvas.picture(2.2, height, 0.8, image, BLUE)
    canvas.arrow((1.45, 1.5), (2.15, height + 0.4), BLUE)
    canvas.arrow((3.05, height + 0.4), (4.75, 0.85), BLUE)
  for k, image in enumerate(turned):
    canvas.picture(2.2 + 0.58 * k, 2.3, 0.53, image, ORANGE)
  canvas.arrow((1.45, 2.0), (2.15, 2.55), ORANGE)
  canvas.arrow((4.53, 2.57), (4.75, 2.57), ORANGE)
  canvas.text(2.2, 1.98, "random views", color=BLUE)
  canvas.text(2.2, 3.05, "all rotations of a third view", color=ORANGE)
  canvas.box(4.75, 0.85, 0.85, "encoder", BLUE)
  canvas.box(4.75, 2.57, 0.85, "encoder", BLUE)
  canvas.arrow((5.17, 1.08), (5.17, 2.35), style="<|-|>", dashed=True)
  canvas.text(5.27, 1.7, "the same", size=8.5)
  for height, color in ((0.85, BLUE), (2.57, ORANGE)):
    canvas.arrow((5.63, height), (6.1, height), color)
  canvas.text(6.2, 0.68, "invariant", color=BLUE, bold=True, size=11)
  canvas.text(6.2, 0.98, "equal features for both views", size=9)
  canvas.text(6.2, 2.4, "equivariant", color=ORANGE, bold=True, size=11)
  canvas.text(6.2, 2.72, "names the turn: 0°, 90°, 180°, 270°", size=9)
  return canvas


def random_views(pictures: Pictures) -> Canvas:
  """Each operation of a view, and random views."""
  picture = pictures[0]
  found = views.steps(picture)
  canvas, size = Canvas(8.6, 3.55), 0.8
  for column, (name, image) in enumerate(found.items()):
    x = 0.1 + 0.845 * column
    canvas.picture(x, 0.1, size, image)
    canvas.text(x + size / 2, 1.0, name, place="center", size=8)
  rows = {
    "views 1 and 2: crops of 20% or more": views.ten(picture),
    "view 3: small crops, whose rotations are predicted": views.draw(
      picture, views.SMALL, len(found), 2
    ),
  }
  for row, (title, images) in enumerate(rows.items()):
    y = 1.42 + 1.12 * row
    canvas.text(0.1, y - 0.11, title)
    for column, image in enumerate(images):
      canvas.picture(0.1 + 0.845 * column, y + 0.02, size, image)
  return canvas


def groups(pictures: Pictures) -> Canvas:
  """The elements of all groups that can be predicted."""
  known = transformations.GROUPS
  canvas = Canvas(8.6, 0.1 + 0.95 * len(known))
  for row, (name, group) in enumerate(known.items()):
    y = 0.08 + 0.95 * row
    canvas.text(0.1, y + 0.38, name, bold=True)
    count = min(_SHOWN, group.num_classes)
    for k, image in enumerate(views.elements(group, pictures[0])[:count] / 255):
      x = 1.75 + 0.82 * k
      canvas.picture(x, y, 0.72, image)
      canvas.text(x + 0.36, y + 0.8, group.names[k], place="center", size=7)
    if count < group.num_classes:
      rest = f"+ {group.num_classes - count}"
      canvas.text(1.75 + 0.82 * count, y + 0.38, rest, size=8)
  return canvas


def _sheet(names: Sequence[str], panel: Callable[..., None]) -> Any:
  """A function that draws panels in two columns."""

  def draw(pictures: Pictures) -> Canvas:
    rows = -(-len(names) // 2)
    canvas = Canvas(2 * panels.WIDTH, rows * panels.HEIGHT + 0.1)
    for place, name in enumerate(names):
      x = 0.1 + panels.WIDTH * (place % 2)
      panel(canvas, x, panels.HEIGHT * (place // 2) + 0.05, name, pictures)
    return canvas

  return draw


PICTURES: Mapping[str, Callable[[Pictures], Canvas]] = {
  "overview": overview,
  "views": random_views,
  "groups": groups,
  "methods": _sheet(list(panels.METHODS), panels.method),
  "terms": _sheet(list(panels.TERMS), panels.term),
}


def _cat_and_cup() -> Pictures:
  """Two pictures, uint8 [H, W, 3]."""
  try:
    from skimage import data
  except ModuleNotFoundError as error:
    raise UsageError(
      "the pictures need pip install scikit-image; or give --pictures"
    ) from error
  return data.chelsea()[:, 75:375], data.coffee()


@arguments.tells_wrong_input
def main() -> int:
  """Draws all pictures, or those that are named."""
  parser = arguments.Parser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("names", nargs="*", metavar="PICTURE")
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--pictures", nargs=2, help="two images of your own")
  options = parser.parse_args()
  if unknown := set(options.names) - set(PICTURES):
    raise UsageError(
      f"unknown picture {min(unknown)!r}; there are: {', '.join(PICTURES)}"
    )
  if not options.pictures:
    found = _cat_and_cup()
  else:
    opened = [Image.open(path) for path in options.pictures]
    found = [np.asarray(image.convert("RGB")) for image in opened]
  pictures = [views.square(picture) for picture in found]
  options.out.mkdir(parents=True, exist_ok=True)
  for name in options.names or PICTURES:
    PICTURES[name](pictures).save(options.out / f"{name}.png")
  return 0


if __name__ == "__main__":
  sys.exit(main())
