"""The table and the figure of a study."""

import argparse
from collections.abc import Mapping, Sequence
import statistics
from typing import Any

import study as study_lib

from essl_jax.evaluation import drawing
from essl_jax.storage import places

Records = Sequence[Mapping[str, Any]]


def spread(values: Sequence[float | None]) -> str:
  """Mean and sample standard deviation; a dash if a value is missing."""
  there = [value for value in values if value is not None]
  if not there or len(there) < len(values):
    return "–"
  mean, deviation = mean_and_deviation(there)
  return f"{mean:.2f} ± {deviation:.2f}" if there[1:] else f"{mean:.2f}"


def values(records: Records, row: str, key: str) -> list[float | None]:
  """The values of a figure for all seeds of a row."""
  return [x["figures"].get(key) for x in records if x["row"] == row]


def known(records: Records, row: str, key: str) -> list[float]:
  """The values of a figure for those seeds of a row that have it."""
  return [x for x in values(records, row, key) if x is not None]


def changes(records: Records, row: str, baseline: str, key: str) -> list[float]:
  """Differences of a row's figure from the baseline's, for common seeds.

  Args:
    records: records of cells.
    row: the row to compare.
    baseline: the row to compare with.
    key: name of the figure.

  Returns:
    The differences.
  """
  by_seed = {x["seed"]: x["figures"] for x in records if x["row"] == baseline}
  found = [
    (x["figures"].get(key), by_seed[x["seed"]].get(key))
    for x in records
    if x["row"] == row and x["seed"] in by_seed
  ]
  return [ours - other for ours, other in found if None not in (ours, other)]


def table(
  study: study_lib.Study, scale: str, rows: Sequence[str], records: Records
) -> str:
  """Means ± sample standard deviations over seeds, as Markdown.

  Args:
    study: the study.
    scale: scale of the records.
    rows: rows in their order.
    records: records of the finished cells.

  Returns:
    The table and, below it, the sources of quoted figures.
  """
  titles = ["", "seeds", *study.columns.values()]
  first = next(iter(study.columns))
  if study.baseline:
    titles.append(f"{study.columns[first]} above “{study.baseline}”")
  sources = list(dict.fromkeys(x.source for x in study.quoted))
  if sources:
    titles.append(
      "quoted" + ("" if scale == "full" else ", of the full recipe")
    )
  lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
  for row in rows:
    texts = [row, str(sum(x["row"] == row for x in records))]
    texts += [spread(values(records, row, key)) for key in study.columns]
    if study.baseline:
      is_other = row != study.baseline
      found = changes(records, row, study.baseline, first) if is_other else []
      texts.append(spread(found))
    if sources:
      quoted = [
        f"{x.text} [{sources.index(x.source) + 1}]"
        for x in study.quoted
        if x.row == row
      ]
      texts.append("; ".join(quoted) or "–")
    lines.append(f"| {' | '.join(texts)} |")
  lines += [""] if sources else []
  lines += [f"{i}. {source}" for i, source in enumerate(sources, start=1)]
  return "\n".join(lines)


def dots(
  axes: Any, records: Records, rows: Sequence[str], key: str, title: str
) -> None:
  """Draws the mean and spread of each row, and a point for each seed.

  Args:
    axes: axes of matplotlib.
    records: records of cells.
    rows: rows from top to bottom; those without the figure stay empty.
    key: name of the figure.
    title: title of the axis.
  """
  for i, row in enumerate(rows):
    found = known(records, row, key)
    if found:
      mean, deviation = mean_and_deviation(found)
      axes.errorbar(mean, i, xerr=deviation, fmt=f"C{i % 10}o", capsize=4)
      axes.plot(found, [i + 0.2] * len(found), "k.", markersize=4)
  axes.set_yticks(range(len(rows)), rows)
  axes.set_ylim(len(rows) - 0.5, -0.5)
  axes.grid(axis="x", alpha=0.4)
  axes.set_xlabel(f"{title}, mean ± spread over seeds")


def mean_and_deviation(found: Sequence[float]) -> tuple[float, float]:
  """Mean and sample standard deviation, 0 for a single number."""
  deviation = statistics.stdev(found) if found[1:] else 0.0
  return statistics.fmean(found), deviation


def write(
  study: study_lib.Study,
  options: argparse.Namespace,
  rows: Sequence[str],
  records: Records,
) -> str:
  """Writes `table.md`, `figure.png` and `figure.pdf` if a cell is finished.

  Args:
    study: the study.
    options: from `study_runner.parse`.
    rows: rows of the table.
    records: records of the finished cells.

  Returns:
    The text of `table.md`.
  """
  text = "\n\n".join(
    filter(
      None,
      [
        f"# {study.title}",
        f"Scale `{options.scale}`. {study.captions[options.scale]}",
        table(study, options.scale, rows, records),
        _circumstances(records),
      ],
    )
  )
  if not records:
    return text
  places.replace_text(options.results / "table.md", text + "\n")
  draw = lambda figure: study.draw(figure, list(records))
  drawing.write_files(options.results, (11, 5), draw)
  return text


def _circumstances(records: Records) -> str:
  """Commits, devices, training times and notes of the cells."""
  if not records:
    return ""
  found = [x["environment"] for x in records]
  commits = {str(x.get("git_commit"))[:7] for x in found}
  devices = {f"{x['device_count']} {x['device_kind']}" for x in found}
  seconds = [x["wall_seconds"] for x in records if x["wall_seconds"]]
  lines = [
    f"Commit: {', '.join(sorted(commits))}. Devices of a cell:"
    f" {', '.join(sorted(devices))}. jax"
    f" {', '.join(sorted({str(x['jax']) for x in found}))}."
  ]
  if seconds:
    lines[0] += (
      f" Training: {min(seconds):,.0f} to {max(seconds):,.0f} s a cell."
    )
  notes = dict.fromkeys(str(x["note"]) for x in records if x.get("note"))
  return "\n\n".join([*lines, *notes])
