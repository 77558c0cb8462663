"""Pictures of densities of states for the report and `summary.png`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from essl_jax.evaluation import drawing
from essl_jax.evaluation.evaluation import Picture
from essl_jax.photonics import density as density_lib

Errors = Mapping[str, Mapping[int, tuple[float, float]]]
"""Mean and standard deviation of the error in percent, by run and cells."""


def draw(found: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
  """Draws the errors of all runs, and each run's true and predicted densities.

  Args:
    found: figures of `regression.run` and `samples`, by run; empty for runs
      without them.

  Returns:
    The pictures for which there are figures.
  """
  drawn = _errors(found)
  for name, regression in found.items():
    samples = regression.get("samples") or {}
    true, predicted = (
      np.asarray(samples.get(x, ()), float) for x in ("true", "predicted")
    )
    if true.ndim == 2 and true.shape == predicted.shape and true.size:
      apart = np.abs(true - predicted).mean()
      alt = (
        f"Densities of states of {len(true)} test cells, true and predicted by"
        f" {name}; mean absolute difference {apart:.3f}."
      )
      caption = f"{name}: test cells, true (solid) and predicted (dashed)"
      figure, axes = drawing.make_axes(4.2)
      draw_densities(axes, true, predicted)
      axes.set_title("")
      axes.set_ylabel(axes.get_ylabel(), fontsize=8)
      drawn.append(Picture(drawing.to_png(figure), alt, caption))
  return drawn


def _errors(found: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
  """Draws the errors of all runs against labelled cells, if there are any."""
  errors = {
    name: {
      int(count): (each["dos_error"], each.get("dos_error_std", 0.0))
      for count, each in regression.get("by_labelled", {}).items()
      if each.get("dos_error") is not None  # a regression that diverged
    }
    for name, regression in found.items()
  }
  errors = {name: each for name, each in errors.items() if each}
  if not errors:
    return []
  free = {x.get("dos_error_of_free_space") for x in found.values() if x}
  level = free.pop() if len(free) == 1 else None
  png = errors_by_labelled(errors, list(found), level)
  title = "Relative error of the density of states by number of labelled cells"
  told = "; ".join(
    f"{name}: "
    + ", ".join(f"{e:.2f} ± {d:.2f}% with {n:,}" for n, (e, d) in x.items())
    for name, x in errors.items()
  )
  return [Picture(png, f"{title}. {told}.", title)]


def errors_by_labelled(
  errors: Errors, names: Sequence[str], free_space: float | None
) -> bytes:
  """Draws errors of the density of states against labelled cells.

  Args:
    errors: errors of one run or more.
    names: names of all runs on the page, which set the colours.
    free_space: error of predicting free space, in percent.

  Returns:
    The PNG file.
  """
  figure, axes = drawing.make_axes(3.4)
  for name, found in errors.items():
    counts = sorted(found)
    means, deviations = zip(*(found[n] for n in counts), strict=True)
    # Shifts runs, so that those with equal numbers of cells do not overlap.
    shift = 1 + 0.02 * (names.index(name) - (len(names) - 1) / 2)
    axes.errorbar(
      shift * np.array(counts),
      means,
      yerr=deviations,
      label=drawing.plain(name),
      marker="o",
      capsize=3,
      **drawing.style(names.index(name)),
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
  drawing.name_lines(figure, list(errors))
  return drawing.to_png(figure)


def draw_densities(
  axes: Any, density: np.ndarray, predicted: np.ndarray
) -> None:
  """Draws densities of states minus that of free space, against frequency.

  Args:
    axes: matplotlib axes.
    density: true densities of a few test cells, [N, 400].
    predicted: predicted densities, [N, 400].
  """
  frequencies = density_lib.frequencies()[: density.shape[1]]
  free = density_lib.empty_lattice()[: density.shape[1]]
  apart = 2.5
  for i, (true, found) in enumerate(zip(density, predicted, strict=True)):
    offset = apart * i - free
    axes.plot(frequencies, true + offset, color=f"C{i}")
    axes.plot(frequencies, found + offset, color=f"C{i}", linestyle="--")
  axes.set_title("test cells: true, predicted (dashed)")
  axes.set_xlabel(r"frequency $\omega \sqrt{\bar\varepsilon}\, a / 2 \pi c$")
  axes.set_ylabel(f"density of states minus free space, cells {apart:g} apart")
