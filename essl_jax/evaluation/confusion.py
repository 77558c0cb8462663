"""Confusion matrices of kNN's classes and of transformation heads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from essl_jax import transformations
from essl_jax.evaluation import drawing
from essl_jax.evaluation.evaluation import Picture

MOST = 100  # with more classes, `results.json` keeps no matrix
_NAMED = 20  # names that fit along an axis
_COUNTED = 10  # percentages that fit into a row's cells


def count(
  labels: np.ndarray, named: np.ndarray, num_classes: int
) -> list[list[int]]:
  """Counts a confusion matrix.

  Args:
    labels: true classes [N].
    named: predicted classes [N].
    num_classes: C, for both.

  Returns:
    [C, C] as lists: counts by true class (rows) and predicted class (columns).
  """
  counts = np.zeros((num_classes, num_classes), int)
  np.add.at(counts, (np.asarray(labels), np.asarray(named)), 1)
  return counts.tolist()


def of_classes(run: str, figures: Mapping[str, Any]) -> list[Picture]:
  """Draws the confusion matrix of a kNN with class names.

  Args:
    run: name of the run.
    figures: of `knn.Knn.run`; with many classes they hold no matrix.

  Returns:
    The picture; an empty list if there is no matrix.
  """
  counts = np.asarray(figures.get("confusion", ()), float)
  if not _is_square(counts):
    return []
  names = figures.get("class_names") or ()
  if len(names) != len(counts):
    names = [f"class {k}" for k in range(len(counts))]
  return [_picture(run, "classes by kNN", counts, names, "class")]


def of_elements(run: str, figures: Mapping[str, Any]) -> Picture | str:
  """Draws the confusion matrix of a run's transformation head.

  Args:
    run: name of the run.
    figures: from `transformation.run`; early versions saved no matrix.

  Returns:
    The picture, or a sentence that says why it is missing.
  """
  counts = np.asarray(figures.get("confusion", ()), float)
  if not figures:
    return f"{run} has no trained transformation head."
  if not _is_square(counts):
    return (
      f"{run}: results.json holds no confusion matrix; run again with"
      " --config.mode=evaluate to add it."
    )
  group = figures.get("group")
  names = figures.get("element_names") or _element_names(group)
  if len(names) != len(counts):
    names = [f"element {k}" for k in range(len(counts))]
  return _picture(run, str(group), counts, names, "element")


def _is_square(counts: np.ndarray) -> bool:
  """Whether an array is a square matrix."""
  return counts.ndim == 2 and counts.shape[0] == counts.shape[1] > 0


def _picture(
  run: str, what: str, counts: np.ndarray, names: Sequence[str], noun: str
) -> Picture:
  """Draws a matrix of counts [K, K]; its alt text names the main results."""
  percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  right = np.diag(percent)
  wrong = percent - np.diag(right)
  row, column = np.unravel_index(wrong.argmax(), wrong.shape)
  shown = list(range(len(names)))
  if len(names) > _NAMED:
    shown = [int(right.argmin()), int(right.argmax())]
  told = ", ".join(f"{names[k]} {right[k]:.1f}%" for k in shown)
  alt = (
    f"Confusion matrix of {what} for {run}. Recognised: {told}. Most"
    f" frequent mistake: {names[row]} taken for {names[column]},"
    f" {wrong[row, column]:.1f}%."
  )
  caption = f"{run}: confusion matrix of {what} on test images"
  return Picture(_draw(percent, counts, names, noun), alt, caption)


def _element_names(group: str | None) -> Sequence[str]:
  """Names of a group's elements; none for an unknown group."""
  try:
    return transformations.find(group or "").names
  except ValueError:
    return ()


def _draw(
  percent: np.ndarray, counts: np.ndarray, names: Sequence[str], noun: str
) -> bytes:
  """Draws the PNG file: one row per true class, in percent of its images."""
  figure, axes = drawing.make_axes(4.2)
  shown = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
  figure.colorbar(shown, ax=axes, label=f"% of the true {noun}")
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
