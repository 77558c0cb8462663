"""Draws how the costs of a step grow."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

AXES = {
  "batch": "global batch",
  "size": "pixels a side of views 1 and 2",
  "devices": "devices",
  "examples": "training images",
}
EPOCH = "seconds of all steps of an epoch"
POINTS = {"textcoords": "offset points"}


def exponent(values: Sequence[float], costs: Sequence[float]) -> float | None:
  """The power of the values with which costs grow, by least squares.

  Args:
    values: at least two different values.
    costs: positive costs.

  Returns:
    1 if the cost is proportional, 0 if it is constant; None without two values.
  """
  pairs = [
    (math.log(x), math.log(y))
    for x, y in zip(values, costs, strict=True)
    if y > 0
  ]
  if len({x for x, _ in pairs}) < 2:
    return None
  centre = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
  above = sum((x - centre[0]) * (y - centre[1]) for x, y in pairs)
  return above / sum((x - centre[0]) ** 2 for x, _ in pairs)


def draw(figure: Any, cells: Sequence[Mapping[str, Any]]) -> None:
  """Draws time above memory, one column for each measured axis."""
  measured = [x for x in AXES if any(cell["axis"] == x for cell in cells)]
  grid = figure.subplots(2, len(measured), squeeze=False)
  for column, axis in enumerate(measured):
    found = sorted(
      (x for x in cells if x["axis"] == axis), key=lambda x: x["value"]
    )
    values = [x["value"] for x in found]
    is_epoch = axis == "examples"
    seconds = [
      x["epoch_seconds" if is_epoch else "step_seconds"] for x in found
    ]
    memory = [x["temporary_bytes"] / 2**20 for x in found]
    title = EPOCH if is_epoch else "seconds of a step"
    rows = ((title, seconds), ("MiB of temporaries a device", memory))
    for row, (title, costs) in enumerate(rows):
      axes = grid[row][column]
      axes.loglog(values, costs, f"C{row}o-")
      power = exponent(values, costs)
      axes.set_title("" if power is None else f"grows with power {power:.2f}")
      axes.set_xticks(values, map(str, values), rotation=45)
      for x, cost in zip(values, costs, strict=True):
        axes.annotate(f"{cost:.3g}", (x, cost), (-3, 6), ha="right", **POINTS)
      axes.margins(0.2)
      axes.minorticks_off()
      axes.set_xlabel(AXES[axis])
      axes.set_ylabel(title)
      axes.grid(alpha=0.4)
