"""The table of the main figures, each with its protocol."""

from collections.abc import Mapping, Sequence
from typing import Any

from essl_jax.evaluation import guard
from essl_jax.evaluation.evaluation import figures_of
from essl_jax.report.evaluations import Known, ask
from essl_jax.report.parts import Cell, Row, Table
from essl_jax.report.runs import Run, is_number, mapping
from essl_jax.report.tables import ABSENT, show, union, without_arrays, words

Cells = dict[str, Cell]
"""Figures with a short protocol, by the heading of their row."""


def table(runs: Sequence[Run], known: Known, notes: list[str]) -> Table:
  """Makes the table of the figures of all runs, each with its protocol.

  Args:
    runs: one run per column.
    known: evaluations, for results that store no rows.
    notes: gets a line for everything that cannot be shown.

  Returns:
    The table.
  """
  columns = [_evaluated(run, known, notes) | _training(run) for run in runs]
  rows = [
    Row(name, [column.get(name, Cell(ABSENT)) for column in columns])
    for name in union(columns)
  ]
  head = ["Measure", *(run.name for run in runs)]
  caption = "Results of each run, with the protocol below each value"
  return Table(caption, head, rows)


def _evaluated(run: Run, known: Known, notes: list[str]) -> Cells:
  """The rows of all evaluations: stored ones, or new ones from figures."""
  stored = run.results.get("rows", {})
  figures = run.results.get("figures", {})
  elsewhere = [x for x in known if figures_of(known[x], run.results)]
  cells: Cells = {}
  for measure in union([stored, figures, elsewhere]):
    if measure in stored:
      rows = stored[measure]
    elif measure in known:
      # Early versions stored no rows; they need only the figures.
      kind = known[measure]
      make = lambda kind=kind: guard.rows(kind(), figures_of(kind, run.results))
      rows = ask(notes, f"{run.name}, figures of {measure}", make, [])
    else:
      rows = _others(measure, run.figures(measure))
    cells |= {title: Cell(value, note) for title, value, note in rows}
  return cells


def _others(
  measure: str, found: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
  """Rows for the numbers of an unknown measure."""
  return [
    (f"{words(measure).capitalize()}: {words(name)}", show(value), "")
    for name, value in without_arrays(found).items()
    if is_number(value)
  ]


def _training(run: Run) -> Cells:
  found = run.results.get("training", {})
  device = run.results.get("environment", {})
  note = f"{device.get('device_count')} × {device.get('device_kind')}"
  cells: Cells = {}
  for name, title in (
    ("source_images_per_second", "Training speed, source images/s"),
    ("encoder_images_per_second", "Training speed, encoder images/s"),
    ("wall_seconds", "Training time, s"),
  ):
    if is_number(found.get(name)):
      cells[title] = Cell(f"{found[name]:,.0f}", note)
  deviation = mapping(found.get("last_step")).get("embedding_std")
  if is_number(deviation):
    name = "Standard deviation of embeddings at the last step"
    level = run.spread_out
    note = f"{level:.4g} if spread out, 0 if collapsed" if level else ""
    cells[name] = Cell(f"{deviation:.4f}", note)
  if "step" in run.results:
    cells["Training step of these results"] = Cell(f"{run.results['step']:,}")
  return cells
