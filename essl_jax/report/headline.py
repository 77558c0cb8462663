"""The table of the figures worth comparing, each with its protocol."""

from collections.abc import Callable, Mapping, Sequence
import re
from typing import Any

from essl_jax.report.parts import Cell, Row, Table
from essl_jax.report.runs import Run
from essl_jax.report.tables import ABSENT, show, union, without_drawn, words
from essl_jax.storage.workdir import dotted

Cells = dict[str, Cell]
"""By the row's heading: the figure, and its protocol in a few words."""


def table(runs: Sequence[Run]) -> Table:
  """The figures of all runs, each with its protocol."""
  columns = [_headline(run) for run in runs]
  rows = [
    Row(name, [column.get(name, Cell(ABSENT)) for column in columns])
    for name in union(columns)
  ]
  head = ["Measure", *(run.name for run in runs)]
  caption = "Results of each run, with the protocol below each value"
  return Table(caption, head, rows)


def _headline(run: Run) -> Cells:
  """The figures worth comparing."""
  cells: Cells = {}
  known: dict[str, Callable[[Mapping[str, Any]], Cells]] = {
    "knn": lambda found: _knn(found, run.results.get("untrained") or {}),
    "linear_probe": _linear_probe,
    "transformation": _transformation,
    "regression": _regression,
    "collapse": _collapse,
    "symmetry": _symmetry,
  }
  for measure in union([known, run.results.get("figures", {})]):
    found = run.figures(measure)
    if found:
      cells |= known.get(measure, lambda x, m=measure: _others(m, x))(found)
  return cells | _finetuned(run) | _training(run)


def _knn(found: Mapping[str, Any], untrained: Mapping[str, Any]) -> Cells:
  def note(from_: Mapping[str, Any]) -> str:
    return (
      f"k = {show(from_.get('k'))},"
      f" temperature {show(from_.get('temperature'))},"
      f" bank of {_count(from_, 'bank_size')},"
      f" {_count(from_, 'num_queries')} test images"
    )

  cells: Cells = {}
  for name, value in found.items():
    if name.startswith("knn_"):
      title = re.sub(r"top(\d+)_k(\d+)", r"top-\1, k = \2", name[4:])
      title = "kNN " + re.sub(r"top(\d+)$", r"top-\1", title)
      if name in untrained:
        before = Cell(_percent(untrained[name]), note(untrained))
        cells[f"{title}, before training"] = before
      cells[title] = Cell(_percent(value), note(found))
  return cells


def _linear_probe(found: Mapping[str, Any]) -> Cells:
  note = (
    f"{found.get('protocol')} protocol, {_lengths(found)},"
    f" {_count(found, 'num_test')} test images"
  )
  return {
    f"Linear probe top-{k}": Cell(_spread(found, f"linear_top{k}"), note)
    for k in (1, 5)
    if f"linear_top{k}" in found
  }


def _transformation(found: Mapping[str, Any]) -> Cells:
  elements = len(found.get("per_element", [])) or 1
  note = (
    f"group {found.get('group')}, chance {100 / elements:.1f}%,"
    f" {_count(found, 'images')} test images"
  )
  value = _percent(found.get("transformation_accuracy"))
  return {"Transformation prediction accuracy": Cell(value, note)}


def _regression(found: Mapping[str, Any]) -> Cells:
  note = f"{_lengths(found)}, {_count(found, 'num_test')} test cells"
  cells: Cells = {}
  for count, errors in found.get("by_labelled", {}).items():
    for name, title in (
      ("dos_error", "epoch chosen on validation cells"),
      ("dos_error_minimum_over_test", "lowest of all epochs on test cells"),
    ):
      row = f"DOS error, {int(count):,} labelled cells, {title}"
      cells[row] = Cell(_spread(errors, name), note)
  if "dos_error_of_free_space" in found:
    value = _percent(found["dos_error_of_free_space"])
    cells["DOS error of predicting free space"] = Cell(value)
  return cells


def _collapse(found: Mapping[str, Any]) -> Cells:
  note = f"{_count(found, 'images')} test images"
  sphere = found.get("feature_std_of_sphere", 0.0)
  width = f"of {show(found.get('width'))} features"
  titles = {
    "feature_std": ("Standard deviation of features", _spread_out(sphere)),
    "effective_rank": ("Effective rank", width),
    "rankme": ("RankMe", width),
    "alignment": ("Alignment", "lower is better"),
    "uniformity": ("Uniformity", "lower is better"),
  }
  return {
    title: Cell(show(found[name]), f"{scale}, {note}")
    for name, (title, scale) in titles.items()
    if name in found
  }


def _symmetry(found: Mapping[str, Any]) -> Cells:
  cells: Cells = {}
  for group, measures in found.items():
    name = words(group)
    for measure, title, reference in (
      ("cosine", "cosine to the transformed image", "cosine_other_images"),
      ("equivariance_r2", "R² of a linear map", "identity_r2"),
    ):
      if measure in measures:
        than = "to other images" if measure == "cosine" else "without the map"
        note = f"{show(measures.get(reference))} {than}"
        cell = Cell(show(measures[measure]), note)
        cells[f"Under {name}: {title}"] = cell
    if "readout_accuracy" in measures:
      note = f"chance {show(measures.get('chance'))}%"
      value = _percent(measures["readout_accuracy"])
      row = f"Under {name}: linear read-out of the element"
      cells[row] = Cell(value, note)
  return cells


def _others(measure: str, found: Mapping[str, Any]) -> Cells:
  """The numbers of a measure that this file does not know."""
  return {
    f"{words(measure).capitalize()}: {words(name)}": Cell(show(value))
    for name, value in dotted(without_drawn(found)).items()
    if isinstance(value, int | float) and not isinstance(value, bool)
  }


def _finetuned(run: Run) -> Cells:
  return {
    f"Fine-tuned on {name} of the labels, top-1": Cell(
      _percent(found.get("finetune_top1")),
      f"{_count(found, 'num_train')} images, {found.get('epochs')} epochs",
    )
    for name, found in (run.results.get("finetune") or {}).items()
  }


def _training(run: Run) -> Cells:
  found = run.results.get("training") or {}
  device = run.results.get("environment", {})
  note = f"{device.get('device_count')} × {device.get('device_kind')}"
  cells: Cells = {}
  for name, title in (
    ("source_images_per_second", "Training speed, source images/s"),
    ("encoder_images_per_second", "Training speed, encoder images/s"),
    ("wall_seconds", "Training time, s"),
  ):
    if found.get(name) is not None:
      cells[title] = Cell(f"{found[name]:,.0f}", note)
  deviation = (found.get("last_step") or {}).get("embedding_std")
  if deviation is not None:
    width = (run.config.get("projector", {}).get("widths") or [1])[-1]
    name = "Standard deviation of embeddings at the last step"
    cells[name] = Cell(f"{deviation:.4f}", _spread_out(width**-0.5))
  if "step" in run.results:
    cells["Training step of these results"] = Cell(f"{run.results['step']:,}")
  return cells


def _lengths(found: Mapping[str, Any]) -> str:
  repetitions, epochs = found.get("repetitions"), found.get("epochs")
  plural = "" if repetitions == 1 else "s"
  return f"{repetitions} repetition{plural} of {epochs} epochs"


def _spread_out(deviation: float) -> str:
  return f"{deviation:.4g} if spread out, 0 if collapsed"


def _spread(found: Mapping[str, Any], name: str) -> str:
  deviation = found.get(f"{name}_std")
  text = _percent(found.get(name))
  return text if deviation is None else f"{text} ± {deviation:.2f}"


def _percent(value: Any) -> str:
  return ABSENT if value is None else f"{value:.2f}%"


def _count(found: Mapping[str, Any], name: str) -> str:
  return f"{found[name]:,}" if name in found else "?"
