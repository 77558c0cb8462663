"""The confusion matrix of a head that predicts transformations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from essl_jax import transformations
from essl_jax.evaluation import drawing
from essl_jax.evaluation.evaluation import Picture

_NAMED = 20  # elements whose names fit along an axis
_COUNTED = 10  # elements whose shares fit into the cells


def picture(run: str, figures: Mapping[str, Any]) -> Picture | str:
  """The confusion matrix of a run.

  Args:
    run: name of the run.
    figures: from `transformation.run`; early versions saved no matrix.

  Returns:
    The picture, or a sentence that says why it is missing.
  """
  counts = np.asarray(figures.get("confusion", ()), float)
  if not figures:
    return f"{run} has no trained transformation head."
  if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
    return (
      f"{run}: results.json holds no confusion matrix; run again with"
      " --config.mode=evaluate to add it."
    )
  group = figures.get("group")
  names = figures.get("element_names") or _element_names(group)
  if len(names) != len(counts):
    names = [f"element {k}" for k in range(len(counts))]
  percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  wrong = percent - np.diag(np.diag(percent))
  row, column = np.unravel_index(wrong.argmax(), wrong.shape)
  right = ", ".join(
    f"{name} {part:.1f}%"
    for name, part in zip(names, np.diag(percent), strict=True)
  )
  alt = (
    f"Confusion matrix of {group} for {run}. Recognised: {right}. Most"
    f" frequent mistake: {names[row]} taken for {names[column]},"
    f" {wrong[row, column]:.1f}%."
  )
  caption = f"{run}: confusion matrix of {group} on test images"
  return Picture(_draw(percent, counts, names), alt, caption)


def _element_names(group: str | None) -> Sequence[str]:
  """Names of a group's elements; none for an unknown group."""
  try:
    return transformations.find(group or "").names
  except ValueError:
    return ()


def _draw(
  percent: np.ndarray, counts: np.ndarray, names: Sequence[str]
) -> bytes:
  """The PNG file: one row per true element, in percent of its images."""
  figure, axes = drawing.make_axes(4.2)
  shown = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
  figure.colorbar(shown, ax=axes, label="% of the true element")
  if len(counts) <= _NAMED:
    places = np.arange(len(counts))
    names = [drawing.plain(name) for name in names]
    axes.set_xticks(places, names, rotation=45, ha="right")
    axes.set_yticks(places, names)
  if len(counts) <= _COUNTED:
    for row, column in np.ndindex(*counts.shape):
      part = percent[row, column]
      color = "white" if part > 55 else "#1a1a1a"
      text = f"{part:.0f}%\n{counts[row, column]:,.0f}"
      if len(counts) > 5:
        text = f"{part:.0f}"
      axes.text(column, row, text, ha="center", va="center", color=color)
  axes.set_xlabel("predicted")
  axes.set_ylabel("true")
  return drawing.to_png(figure)
