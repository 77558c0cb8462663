"""Tables that compare runs: all their figures and settings."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import json
from typing import Any

from essl_jax.report.parts import Cell, Row, Section, Table
from essl_jax.report.runs import Run
from essl_jax.storage.workdir import dotted

ABSENT = "–"
_LONGEST = 128  # most values of a list in a table, such as one per element


def protocols(
  runs: Sequence[Run], heading: Callable[[str], str]
) -> list[Table]:
  """Tables of all entries of `results.json` for each measure.

  Args:
    runs: one run per column.
    heading: gives the heading of a measure.

  Returns:
    One table per measure.
  """
  found: list[Table] = []
  for measure in union([run.results.get("figures", {}) for run in runs]):
    title = f"{heading(measure)}: all values and settings"
    found += numbers(title, runs, measure)
  return found


def numbers(title: str, runs: Sequence[Run], measure: str) -> list[Table]:
  """A table of the numbers of a measure; none if no run has it."""
  trees = [without_arrays(run.figures(measure)) for run in runs]
  return side_by_side(title, runs, trees)


def environments(runs: Sequence[Run]) -> Section:
  """Versions, devices and commit."""
  trees = [run.results.get("environment", {}) for run in runs]
  title = "Environment of the last evaluation"
  return Section("Environment", tables=side_by_side(title, runs, trees))


def configs(runs: Sequence[Run]) -> Section:
  """The fields in which configs differ, and all fields folded away."""
  trees = [run.config for run in runs]
  title = "Config fields in which the runs differ"
  differing = side_by_side(title, runs, trees, only_differences=True)
  is_same = len(runs) > 1 and not differing
  texts = ["All runs have the same config."] if is_same else []
  whole = side_by_side("All config fields", runs, trees)
  return Section("Config", texts, differing, whole)


def side_by_side(
  title: str,
  runs: Sequence[Run],
  trees: Sequence[Mapping[str, Any]],
  *,
  only_differences: bool = False,
) -> list[Table]:
  """A table of nested values of all runs by dotted name.

  Args:
    title: title of the table.
    runs: one run per column.
    trees: nested values of each run.
    only_differences: whether to leave out equal values; otherwise rows that
      differ are marked.

  Returns:
    The table; none if no row is left.
  """
  columns = [dotted(tree) for tree in trees]
  rows = []
  for name in union(columns):
    texts = [show(c[name]) if name in c else ABSENT for c in columns]
    differs = len(set(texts)) > 1
    if differs or not only_differences:
      marked = differs and not only_differences
      rows.append(Row(name, [Cell(text) for text in texts], marked))
  head = ["Name", *(run.name for run in runs)]
  return [Table(title, head, rows)] if rows else []


def show(value: Any) -> str:
  """A value as short text."""
  if isinstance(value, float):
    return f"{value:.6g}"
  if isinstance(value, list | tuple):
    return ", ".join(map(show, value)) or "none"
  if value is None:
    return "none"
  return value if isinstance(value, str) else json.dumps(value)


def words(name: str) -> str:
  """A name of `results.json` in words."""
  return name.replace("_", " ")


def without_arrays(tree: Mapping[str, Any]) -> dict[str, Any]:
  """The figures of a measure without values too long for a table."""
  return {
    name: value
    for name, value in dotted(tree).items()
    if not isinstance(value, list)
    or (len(value) <= _LONGEST and not any(isinstance(x, list) for x in value))
  }


def union(columns: Sequence[Iterable[str]]) -> list[str]:
  """All names; a name of only a later column follows its neighbour there."""
  names: list[str] = []
  for column in columns:
    place = 0
    for name in column:
      if name not in names:
        names.insert(place, name)
      place = names.index(name) + 1
  return names
