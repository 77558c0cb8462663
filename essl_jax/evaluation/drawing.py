"""Tools for drawing pictures: axes, colours, files."""

from collections.abc import Callable, Mapping, Sequence
import io
import os
import pathlib
from typing import Any

# Dark enough on white; each with its own dash, for readers who see no colours.
_STYLES: Sequence[Mapping[str, Any]] = (
  {"color": "#0072b2", "linestyle": "-"},
  {"color": "#c04a00", "linestyle": "--"},
  {"color": "#00785a", "linestyle": "-."},
  {"color": "#9b3f8f", "linestyle": ":"},
  {"color": "#000000", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
  {"color": "#7a5c00", "linestyle": (0, (1, 3))},
)
_DPI = 144
_WIDTH = 5.6  # inches: half of a wide window, or a full narrow one
_SHORT_NAME = 30  # characters; two such names fit side by side


def make_figure(**options: Any) -> Any:
  """Makes a `matplotlib.figure.Figure`, whatever MPLBACKEND says.

  Does not use pyplot, which has global state and looks for a display.

  Args:
    **options: options of the figure.
  """
  chosen = os.environ.pop("MPLBACKEND", None)  # a wrong one breaks the import
  try:
    from matplotlib import figure as figure_lib  # takes a second to import
  finally:
    if chosen is not None:
      os.environ["MPLBACKEND"] = chosen
  return figure_lib.Figure(**options)


def make_axes(height: float) -> tuple[Any, Any]:
  """Makes a figure of the page's width and a height in inches, and its axes."""
  figure = make_figure(figsize=(_WIDTH, height), layout="constrained")
  axes = figure.subplots()
  axes.spines[["top", "right"]].set_visible(False)
  return figure, axes


def plain(text: str) -> str:
  """Escapes a text so that matplotlib shows it literally.

  Args:
    text: such as the name of a run. Dollars then begin no formula, and a label
      that begins with an underscore stays in the legend.

  Returns:
    The text for a label or a title.
  """
  shown = "".join(x if x.isprintable() else "\ufffd" for x in text)
  indent = " " if shown.startswith("_") else ""
  return indent + shown.replace("$", r"\$")


def name_lines(figure: Any, names: Sequence[str]) -> None:
  """Adds a legend below: two names per line if they fit, else one."""
  is_short = max(map(len, names), default=0) <= _SHORT_NAME
  figure.legend(
    loc="outside lower left",
    ncols=2 if is_short else 1,
    fontsize=9,
    frameon=False,
  )


def style(number: int) -> Mapping[str, Any]:
  """Colour and dashes of the run with this number, for `Axes.plot`."""
  return _STYLES[number % len(_STYLES)]


def to_png(figure: Any) -> bytes:
  """The figure as a PNG file, with the same bytes each time."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
  return buffer.getvalue()


def write_files(
  folder: pathlib.Path, size: tuple[float, float], draw: Callable[[Any], None]
) -> None:
  """Writes figure.png and figure.pdf.

  Args:
    folder: an existing folder.
    size: width and height in inches.
    draw: draws on a `matplotlib.figure.Figure`.
  """
  figure = make_figure(figsize=size, layout="constrained")
  draw(figure)
  figure.savefig(folder / "figure.png", dpi=110)
  undated = {"CreationDate": None}  # the same figures give the same file
  figure.savefig(folder / "figure.pdf", metadata=undated)
