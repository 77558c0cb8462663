"""A drawing of pictures, boxes and arrows, measured in inches from the top."""

import io
import pathlib
from typing import Any

import numpy as np
from PIL import Image

BLUE, ORANGE, GREEN, GRAY = "#3f51b5", "#e65100", "#2e7d32", "#607d8b"
_COLORS = 160  # of a PNG: few enough for a small file
_DPI = 150


class Canvas:
  """One figure without axes.

  Attributes:
    width: in inches.
    height: in inches.
  """

  def __init__(self, width: float, height: float):
    from matplotlib import figure as figure_lib  # takes a second to import

    self.width, self.height = width, height
    self._figure = figure_lib.Figure(figsize=(width, height), dpi=_DPI)
    self._axes: Any = self._figure.add_axes((0, 0, 1, 1))
    self._axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    self._axes.axis("off")

  def picture(
    self, x: float, y: float, size: float, image: Any, edge: str = "none"
  ) -> None:
    """Shows an image [H, W, 3] in [0, 1] in a square whose corner is (x, y)."""
    box = (x, x + size, y + size, y)
    pixels = np.clip(np.asarray(image), 0, 1)
    self._axes.imshow(pixels, extent=box, interpolation="lanczos", zorder=2)
    if edge != "none":
      self._frame(x, y, size, size, edge, "none", 2)
    self._axes.set(xlim=(0, self.width), ylim=(self.height, 0), aspect="auto")

  def box(
    self, x: float, y: float, width: float, text: str, color: str = GRAY
  ) -> None:
    """Writes a text in a filled box, centred on the height y."""
    height = 0.34 + 0.16 * text.count("\n")
    self._frame(x, y - height / 2, width, height, color, color, 1)
    self.text(x + width / 2, y, text, color="white", size=8.5, place="center")

  def text(
    self,
    x: float,
    y: float,
    text: str,
    *,
    color: str = "black",
    size: float = 9,
    place: str = "left",
    bold: bool = False,
  ) -> None:
    """Writes a text beside (`left`) or around (`center`) a place."""
    weight = "bold" if bold else "normal"
    self._axes.text(
      x,
      y,
      text,
      color=color,
      fontsize=size,
      ha=place,
      va="center",
      weight=weight,
      zorder=4,
    )

  def arrow(
    self,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str = GRAY,
    style: str = "-|>",
    dashed: bool = False,
  ) -> None:
    """Draws an arrow; `<|-|>` has two heads."""
    from matplotlib import patches

    line = patches.FancyArrowPatch(
      start,
      end,
      arrowstyle=style,
      color=color,
      mutation_scale=9,
      shrinkA=0,
      shrinkB=0,
      lw=1.2,
      ls=":" if dashed else "-",
      zorder=3,
    )
    self._axes.add_patch(line)

  def _frame(
    self,
    x: float,
    y: float,
    width: float,
    height: float,
    edge: str,
    face: str,
    line: float,
  ) -> None:
    from matplotlib import patches

    shape = patches.FancyBboxPatch(
      (x, y),
      width,
      height,
      boxstyle="round,pad=0,rounding_size=0.05",
      ec=edge,
      fc=face,
      lw=line,
      zorder=3,
    )
    self._axes.add_patch(shape)

  def save(self, path: pathlib.Path) -> None:
    """Writes a PNG of few colours, on white."""
    memory = io.BytesIO()
    self._figure.savefig(memory, format="png", facecolor="white")
    image = Image.open(memory).convert("RGB")
    image.quantize(_COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
