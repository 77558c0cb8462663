"""Writes the figures of `experiments/`, in two formats."""

from collections.abc import Callable
import pathlib
from typing import Any


def write(
  folder: pathlib.Path, size: tuple[float, float], draw: Callable[[Any], None]
) -> None:
  """Writes figure.png and figure.pdf.

  Args:
    folder: that exists.
    size: width and height in inches.
    draw: on a `matplotlib.figure.Figure`.
  """
  from matplotlib import figure as figure_lib  # takes a second to import

  figure = figure_lib.Figure(figsize=size, layout="constrained")
  draw(figure)
  figure.savefig(folder / "figure.png", dpi=110)
  undated = {"CreationDate": None}  # the same figures give the same file
  figure.savefig(folder / "figure.pdf", metadata=undated)
