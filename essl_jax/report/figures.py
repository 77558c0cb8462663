"""Pictures of runs, drawn with matplotlib as PNG files."""

from collections.abc import Mapping, Sequence
import io

import numpy as np
from PIL import Image

from essl_jax.evaluation import drawing
from essl_jax.report.runs import Points

_LEGEND = 20  # most classes that a legend names
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
  """Draws one quantity of several runs.

  Args:
    lines: points by run.
    names: names of all runs of the page, which determine the colours.
    x: label of the horizontal axis.
    y: label of the vertical axis.
    reference: name and height of a reference line.
    is_logarithmic: whether the vertical axis is logarithmic.

  Returns:
    The PNG file.
  """
  figure, axes = drawing.make_axes(3.2)
  for name, points in lines.items():
    marker = "o" if len(points) <= 30 else None
    axes.plot(
      *zip(*points, strict=True),
      label=drawing.plain(name),
      linewidth=1.3,
      marker=marker,
      markersize=3,
      **drawing.style(names.index(name)),
    )
  if reference is not None:
    label, height = reference
    label = drawing.plain(label)
    axes.axhline(height, color="#555555", linewidth=0.8, label=label)
  axes.set_xlabel(drawing.plain(x))
  axes.set_ylabel(drawing.plain(y))
  axes.grid(color="#dddddd", linewidth=0.6)
  heights = (height for points in lines.values() for _, height in points)
  if is_logarithmic and any(height > 0 for height in heights):
    axes.set_yscale("log")
  if len(names) > 1 or reference is not None:
    drawing.name_lines(figure, names)
  return drawing.to_png(figure)


def embedding(
  points: np.ndarray,
  values: np.ndarray,
  shade: str | None = None,
  names: Sequence[str] = (),
) -> bytes:
  """Draws features in the plane.

  Args:
    points: [N, 2].
    values: [N], classes, or the quantity that `shade` names.
    shade: name of the values; None for classes, empty for no colours.
    names: names of the classes; without any, their numbers are shown.

  Returns:
    The PNG file.
  """
  figure, axes = drawing.make_axes(4.6)
  axes.spines[:].set_color("#cccccc")
  classes = np.unique(values) if shade is None else np.array([])
  if 0 < len(classes) <= _LEGEND:
    from matplotlib import colormaps

    colors = colormaps["tab10" if len(classes) <= 10 else "tab20"]
    for color, label in zip(map(colors, range(_LEGEND)), classes, strict=False):
      chosen = points[values == label]
      # Digits distinguish classes for readers who cannot tell colours apart.
      name = drawing.plain(names[label]) if label < len(names) else None
      axes.scatter(
        *chosen.T, s=30, color=color, marker=f"${label}$", label=name
      )
    if names:
      figure.legend(
        loc="outside right upper", fontsize=8, frameon=False, markerscale=1.0
      )
  elif shade == "":
    axes.scatter(*points.T, s=8, color=drawing.style(0)["color"])
  else:
    dots = axes.scatter(*points.T, s=8, c=values, cmap="viridis")
    figure.colorbar(dots, ax=axes, label=drawing.plain(shade or "class"))
  axes.set_xticks([])
  axes.set_yticks([])
  return drawing.to_png(figure)


def thumbnail(pixels: np.ndarray) -> bytes:
  """Converts an image of floats [H, W, C] in [0, 1] to a small PNG file."""
  levels = np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
  picture = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
  picture.thumbnail((_THUMBNAIL, _THUMBNAIL))  # only shrinks
  buffer = io.BytesIO()
  picture.save(buffer, "PNG", optimize=True)
  return buffer.getvalue()
