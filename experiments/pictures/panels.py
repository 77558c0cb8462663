"""One panel a method, one a term: what is compared and what is learned."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from canvas import BLUE, GREEN, ORANGE, Canvas
import numpy as np
import views

WIDTH, HEIGHT = 5.6, 2.15  # inches
_SIZE = 0.8  # of a picture
_TOP, _BOTTOM = 0.8, 1.7  # heights of the two rows

# What a method puts behind the encoder for the first and the second view, and
# what its loss asks for, one line below the other.
METHODS: Mapping[str, tuple[Sequence[str], Sequence[str], str]] = {
  "simclr": (
    ["encoder", "projector"],
    ["encoder", "projector"],
    "near each other,\nfar from all\nother images",
  ),
  "simsiam": (
    ["encoder", "projector", "predictor"],
    ["encoder", "projector"],
    "the prediction\nmeets the other\nview, which gets\nno gradient",
  ),
  "barlow_twins": (
    ["encoder", "projector"],
    ["encoder", "projector"],
    "each dimension\nequals itself, and\nno other one",
  ),
  "vicreg": (
    ["encoder", "projector"],
    ["encoder", "projector"],
    "near each other;\ndimensions vary,\nand not together",
  ),
  "byol": (
    ["encoder", "projector", "predictor"],
    ["target", "projector"],
    "the prediction\nmeets the target,\na moving average",
  ),
  "moco_v3": (
    ["encoder", "projector", "predictor"],
    ["target", "projector"],
    "near the target,\nfar from those of\nother images",
  ),
  "dino": (
    ["student", "prototypes"],
    ["teacher", "prototypes"],
    "the student gives\nthe teacher's\nscores",
  ),
  "none": (["encoder"], ["encoder"], "nothing: a term\nteaches alone"),
}
SAME_AS = {"simclr_nt_xent": "simclr"}  # one picture for both


def _row(
  canvas: Canvas, x: float, y: float, image: Any, boxes: Sequence[str]
) -> float:
  """A picture, then boxes joined by arrows; returns where they end."""
  canvas.picture(x, y - _SIZE / 2, _SIZE, image)
  x += _SIZE
  for text in boxes:
    moving = text in ("target", "teacher")
    canvas.arrow((x + 0.03, y), (x + 0.2, y))
    canvas.box(x + 0.2, y, 0.78, text, GREEN if moving else BLUE)
    x += 0.98
  return x


def method(
  canvas: Canvas, x: float, y: float, name: str, pictures: Sequence[np.ndarray]
) -> None:
  """Draws the panel of a method at (x, y)."""
  upper, lower, asked = METHODS[name]
  pair = views.pair(pictures[0])
  canvas.text(x, y + 0.16, name, bold=True, size=10)
  ends = [
    _row(canvas, x, y + height, image, boxes)
    for height, image, boxes in zip(
      (_TOP, _BOTTOM), pair, (upper, lower), strict=True
    )
  ]
  right = x + 0.8 + 3 * 0.98 + 0.16
  for end, height in zip(ends, (_TOP, _BOTTOM), strict=True):
    if name == "none":
      continue
    middle = y + (_TOP + _BOTTOM) / 2 + (height - 1.25) * 0.35
    canvas.arrow((end + 0.03, y + height), (right, middle), ORANGE)
  canvas.text(right + 0.06, y + 1.25, asked, size=8.5)


@dataclasses.dataclass(frozen=True)
class Shown:
  """What the panels of terms show.

  Attributes:
    plain: a picture [H, W, 3] in [0, 1].
    first: two views of it.
    second: two views of another picture, by the same draws.
  """

  plain: Any
  first: Any
  second: Any


def _prediction(canvas: Canvas, x: float, y: float, shown: Shown) -> None:
  turned = views.rotations(shown.first[0])
  for k, image in enumerate(turned):
    canvas.picture(x + 0.66 * k, y + 0.95, 0.6, image)
  canvas.arrow((x + 2.68, y + 1.25), (x + 2.85, y + 1.25))
  canvas.box(x + 2.85, y + 1.25, 0.78, "encoder", BLUE)
  canvas.box(x + 3.8, y + 1.25, 0.5, "head", ORANGE)
  canvas.arrow((x + 3.63, y + 1.25), (x + 3.8, y + 1.25))
  canvas.text(x + 4.38, y + 1.25, "which turn?\n0°, 90°,\n180°, 270°")


def _two(
  canvas: Canvas, x: float, y: float, pair: Any, boxes: Sequence[str] = ()
) -> float:
  """Two views through the encoder; returns where the row ends."""
  ends = [
    _row(canvas, x, y + height, image, ["encoder", *boxes])
    for height, image in zip((_TOP, _BOTTOM), pair, strict=True)
  ]
  return ends[0]


def _augself(canvas: Canvas, x: float, y: float, shown: Shown) -> None:
  end = _two(canvas, x, y, shown.first)
  for height in (_TOP, _BOTTOM):
    canvas.arrow((end, y + height), (end + 0.3, y + 1.25 + (height - 1.25) / 4))
  canvas.box(end + 0.3, y + 1.25, 0.65, "heads", ORANGE)
  text = "by what do they\ndiffer? crop,\ncolours, flip, ..."
  canvas.text(end + 1.05, y + 1.25, text)


def _equimod(canvas: Canvas, x: float, y: float, shown: Shown) -> None:
  end = _two(canvas, x, y, (shown.plain, shown.first[1]))
  canvas.arrow((end, y + _TOP), (end + 0.45, y + _TOP))
  canvas.box(end + 0.45, y + _TOP, 0.85, "predictor", ORANGE)
  canvas.text(end + 0.1, y + 0.4, "+ parameters of the view", size=8.5)
  canvas.arrow(
    (end + 0.9, y + 1.0), (end + 0.9, y + 1.5), ORANGE, style="<|-|>"
  )
  canvas.arrow((end, y + _BOTTOM), (end + 0.4, y + _BOTTOM))
  canvas.text(end + 0.45, y + _BOTTOM, "the view's features")
  canvas.text(end + 1.0, y + 1.25, "equal", size=8.5, color=ORANGE)


def _sie(canvas: Canvas, x: float, y: float, shown: Shown) -> None:
  end = _two(canvas, x, y, shown.first)
  for height in (_TOP, _BOTTOM):
    canvas.box(end + 0.15, y + height - 0.2, 1.0, "invariant", GREEN)
    canvas.box(end + 0.15, y + height + 0.2, 1.0, "equivariant", ORANGE)
  right = end + 1.2
  canvas.arrow((right, y + 0.6), (right, y + 1.5), GREEN, style="<|-|>")
  canvas.text(right + 0.08, y + 0.85, "equal", color=GREEN, size=8.5)
  canvas.arrow((right + 0.55, y + 1.0), (right + 0.55, y + 1.9), ORANGE)
  text = "times a matrix of\nthe parameters"
  canvas.text(right + 0.63, y + 1.5, text, color=ORANGE, size=8.5)


def _stl(canvas: Canvas, x: float, y: float, shown: Shown) -> None:
  for height, images in zip(
    (_TOP, _BOTTOM), (shown.first, shown.second), strict=True
  ):
    canvas.picture(x, y + height - 0.4, _SIZE, images[0])
    canvas.picture(x + 1.25, y + height - 0.4, _SIZE, images[1])
    canvas.arrow((x + 0.84, y + height), (x + 1.21, y + height), ORANGE)
    canvas.text(x + 1.02, y + height - 0.14, "t", place="center", color=ORANGE)
  canvas.arrow((x + 2.1, y + _TOP), (x + 2.45, y + _TOP))
  canvas.box(x + 2.45, y + _TOP, 1.25, "reads off t", ORANGE)
  canvas.arrow((x + 3.07, y + 1.0), (x + 3.07, y + 1.5), ORANGE)
  canvas.box(x + 2.45, y + _BOTTOM, 1.25, "moves features", ORANGE)
  text = "two images share\nthe draw t; no\nparameters needed"
  canvas.text(x + 3.85, y + 1.25, text)


def _care(canvas: Canvas, x: float, y: float, shown: Shown) -> None:
  for row, height in enumerate((_TOP, _BOTTOM)):
    for column, images in enumerate((shown.first, shown.second)):
      canvas.picture(x + 0.9 * column, y + height - 0.4, _SIZE, images[row])
    canvas.arrow((x + 1.75, y + height), (x + 1.95, y + height))
    canvas.box(x + 1.95, y + height, 0.78, "encoder", BLUE)
    canvas.arrow((x + 2.73, y + height), (x + 2.95, y + height))
    canvas.text(x + 3.0, y + height, "angles", color=ORANGE)
  canvas.arrow((x + 3.2, y + 1.0), (x + 3.2, y + 1.5), ORANGE, style="<|-|>")
  text = (
    "a chunk of images changes\nalike (rows: two draws);\n"
    "the angles between\nthem stay"
  )
  canvas.text(x + 3.62, y + 1.25, text, size=8.5)


TERMS: Mapping[str, Callable[[Canvas, float, float, Shown], None]] = {
  "prediction": _prediction,
  "augself": _augself,
  "equimod": _equimod,
  "sie": _sie,
  "stl": _stl,
  "care": _care,
}


def term(
  canvas: Canvas, x: float, y: float, name: str, pictures: Sequence[np.ndarray]
) -> None:
  """Draws the panel of a term at (x, y)."""
  canvas.text(x, y + 0.16, name, bold=True, size=10)
  first, second = map(views.pair, pictures)
  TERMS[name](canvas, x, y, Shown(pictures[0] / 255, first, second))
