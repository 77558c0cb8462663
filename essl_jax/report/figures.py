"""Pictures of runs, drawn with matplotlib as PNG files."""

from collections.abc import Mapping, Sequence
import io
from typing import Any

from matplotlib import figure as figure_lib
import numpy as np
from PIL import Image

from essl_jax.photonics import regression
from essl_jax.report.runs import Points

# Dark enough on white; each with a dash of its own, for those who see none.
_STYLES: Sequence[Mapping[str, Any]] = (
  {"color": "#0072b2", "linestyle": "-"},
  {"color": "#c04a00", "linestyle": "--"},
  {"color": "#00785a", "linestyle": "-."},
  {"color": "#9b3f8f", "linestyle": ":"},
  {"color": "#000000", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
  {"color": "#7a5c00", "linestyle": (0, (1, 3))},
)
_DPI = 144
_WIDTH = 5.6  # inches: half of a wide window, all of a narrow one
_SHORT_NAME = 30  # characters, of which two fit beside each other
_LEGEND = 20  # classes that a legend still names
_THUMBNAIL = 96  # pixels of the longer side of an image


def curves(
  lines: Mapping[str, Points],
  names: Sequence[str],
  *,
  x: str,
  y: str,
  reference: tuple[str, float] | None = None,
  is_logarithmic: bool = False,
) -> bytes:
  """One quantity of several runs.

  Args:
    lines: points by run.
    names: of all runs of the page, which decide the colours.
    x: what the horizontal axis shows.
    y: what the vertical axis shows.
    reference: name and height of a level to compare with.
    is_logarithmic: whether the vertical axis is.

  Returns:
    The PNG file.
  """
  figure, axes = _axes(3.2)
  for name, points in lines.items():
    style = _style(names.index(name))
    marker = "o" if len(points) <= 30 else None
    axes.plot(
      *zip(*points, strict=True),
      label=name,
      linewidth=1.3,
      marker=marker,
      markersize=3,
      **style,
    )
  if reference is not None:
    label, height = reference
    axes.axhline(height, color="#555555", linewidth=0.8, label=label)
  axes.set_xlabel(x)
  axes.set_ylabel(y)
  axes.grid(color="#dddddd", linewidth=0.6)
  if is_logarithmic:
    axes.set_yscale("log")
  if len(names) > 1 or reference is not None:
    _name_lines(figure, names)
  return _png(figure)


def confusion(counts: np.ndarray, elements: Sequence[str]) -> bytes:
  """A confusion matrix, each row as parts of its sum.

  Args:
    counts: [K, K], row the true element, column the predicted one.
    elements: their names.

  Returns:
    The PNG file.
  """
  percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  figure, axes = _axes(4.2)
  picture = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
  figure.colorbar(picture, ax=axes, label="% of the true element")
  places = np.arange(len(counts))
  if len(counts) <= _LEGEND:
    axes.set_xticks(places, elements, rotation=45, ha="right")
    axes.set_yticks(places, elements)
  if len(counts) <= 10:
    for row, column in np.ndindex(*counts.shape):
      part = percent[row, column]
      color = "white" if part > 55 else "#1a1a1a"
      text = f"{part:.0f}%\n{counts[row, column]:,.0f}"
      if len(counts) > 5:
        text = f"{part:.0f}"
      axes.text(column, row, text, ha="center", va="center", color=color)
  axes.set_xlabel("predicted")
  axes.set_ylabel("true")
  return _png(figure)


def embedding(
  points: np.ndarray, values: np.ndarray, *, has_classes: bool
) -> bytes:
  """Features in the plane.

  Args:
    points: [N, 2].
    values: [N], classes or mean permittivities.
    has_classes: which of the two; -1 is no class.

  Returns:
    The PNG file.
  """
  figure, axes = _axes(4.6)
  axes.spines[:].set_color("#cccccc")
  classes = np.unique(values) if has_classes else np.array([])
  if has_classes and len(classes) <= _LEGEND:
    from matplotlib import colormaps

    colors = colormaps["tab10" if len(classes) <= 10 else "tab20"]
    for color, label in zip(map(colors, range(_LEGEND)), classes, strict=False):
      chosen = points[values == label]
      # Letters tell classes apart where colours do not.
      axes.scatter(*chosen.T, s=30, color=color, marker=f"${label}$")
  else:
    dots = axes.scatter(*points.T, s=8, c=values, cmap="viridis")
    name = "class" if has_classes else "mean permittivity, scaled to 0–1"
    figure.colorbar(dots, ax=axes, label=name)
  axes.set_xticks([])
  axes.set_yticks([])
  return _png(figure)


def errors_by_labelled(
  errors: Mapping[str, Mapping[int, tuple[float, float]]],
  names: Sequence[str],
  free_space: float | None,
) -> bytes:
  """Errors of the density of states against labelled cells.

  Args:
    errors: by run and number of cells: mean and deviation, in percent.
    names: of all runs of the page, which decide the colours.
    free_space: error of predicting free space, in percent.

  Returns:
    The PNG file.
  """
  figure, axes = _axes(3.4)
  for name, found in errors.items():
    counts = sorted(found)
    means, deviations = zip(*(found[n] for n in counts), strict=True)
    # Apart, so that runs with one number of cells do not cover each other.
    shift = 1 + 0.02 * (names.index(name) - (len(names) - 1) / 2)
    axes.errorbar(
      shift * np.array(counts),
      means,
      yerr=deviations,
      label=name,
      marker="o",
      capsize=3,
      **_style(names.index(name)),
    )
  if free_space is not None:
    label = "predicting free space"
    axes.axhline(free_space, color="#555555", linewidth=0.8, label=label)
  axes.set_xscale("log")
  ticks = sorted({n for found in errors.values() for n in found})
  axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
  axes.set_xticks([], minor=True)
  axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
  axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
  axes.set_xlabel("labelled cells")
  axes.set_ylabel("relative error (%)")
  axes.grid(color="#dddddd", linewidth=0.6)
  _name_lines(figure, list(errors))
  return _png(figure)


def _name_lines(figure: Any, names: Sequence[str]) -> None:
  """A legend below, one name a line where two would not fit."""
  is_short = max(map(len, names), default=0) <= _SHORT_NAME
  figure.legend(
    loc="outside lower left",
    ncols=2 if is_short else 1,
    fontsize=9,
    frameon=False,
  )


def densities(true: np.ndarray, predicted: np.ndarray) -> bytes:
  """True and predicted densities of states of a few test cells, [N, 400]."""
  figure, axes = _axes(4.2)
  regression.draw_densities(axes, true, predicted)
  axes.set_title("")
  axes.set_ylabel(axes.get_ylabel(), fontsize=8)
  return _png(figure)


def thumbnail(pixels: np.ndarray) -> bytes:
  """An image of floats [H, W, C] in [0, 1] as a small PNG file."""
  levels = np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
  picture = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
  picture.thumbnail((_THUMBNAIL, _THUMBNAIL))  # never larger than it was
  buffer = io.BytesIO()
  picture.save(buffer, "PNG", optimize=True)
  return buffer.getvalue()


def _axes(height: float) -> tuple[figure_lib.Figure, Any]:
  # Not pyplot: it keeps global state and looks for a display.
  figure = figure_lib.Figure(figsize=(_WIDTH, height), layout="constrained")
  axes = figure.subplots()
  axes.spines[["top", "right"]].set_visible(False)
  return figure, axes


def _style(number: int) -> Mapping[str, Any]:
  return _STYLES[number % len(_STYLES)]


def _png(figure: figure_lib.Figure) -> bytes:
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
  return buffer.getvalue()
