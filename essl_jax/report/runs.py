"""Reads finished runs from the JSON files in their workdirs."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any

from essl_jax.config import older
from essl_jax.errors import UsageError
from essl_jax.storage.workdir import local_path, read_config

Points = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Run:
  """One run.

  Attributes:
    name: short, different from those of the other runs.
    path: its workdir, absolute.
    results: what `results.json` holds.
    metrics: the lines of `metrics.jsonl`.
    notes: what could not be read, a line each.
  """

  name: str
  path: pathlib.Path
  results: Mapping[str, Any]
  metrics: Sequence[Mapping[str, Any]]
  notes: tuple[str, ...] = ()

  @property
  def config(self) -> Mapping[str, Any]:
    """The config of the last evaluation, nested."""
    return self.results.get("config", {})

  def figures(self, measure: str) -> Mapping[str, Any]:
    """What one measure has found; empty where it was not taken."""
    found = self.results.get("figures", {}).get(measure)
    return found if isinstance(found, Mapping) else {}

  def scalars(self) -> set[str]:
    """Names of the numbers in `metrics.jsonl`."""
    names = {name for line in self.metrics for name in line}
    return {name for name in names if self.curve(name)} - {"wall_time", "step"}

  def curve(self, name: str) -> Points:
    """Steps and values of a number in `metrics.jsonl`; finite ones only."""
    return [
      (line["step"], float(line[name]))
      for line in self.metrics
      if _is_number(line.get(name)) and _is_number(line.get("step"))
    ]

  @property
  def spread_out(self) -> float | None:
    """Deviation per dimension of embeddings that fill the sphere."""
    widths = (self.config.get("projector") or {}).get("widths")
    return widths[-1] ** -0.5 if widths else None

  def steps_per_epoch(self, name: str, section: str) -> int | None:
    """Steps of an epoch, from where a figure was measured.

    Args:
      name: of the figure.
      section: of the config, of the evaluation that has measured it.

    Returns:
      None where it is not clear, or not measured by epochs.
    """
    steps = [step for step, _ in self.curve(name) if step > 0]
    every = (self.config.get(section) or {}).get("every_epochs")
    epochs = self.config.get("epochs")
    if not steps or not epochs or every is None:
      return None
    each, rest = divmod(min(steps), min(every or epochs, epochs))
    is_clear = each > 0 and not rest and max(steps) <= each * epochs
    return int(each) if is_clear else None


def read(workdirs: Sequence[str]) -> list[Run]:
  """Reads the JSON files of some runs.

  Args:
    workdirs: of the runs.

  Returns:
    The runs in this order.

  Raises:
    UsageError: a folder is missing, has no readable results, or is named
      twice.
  """
  paths = [local_path(workdir) for workdir in workdirs]
  resolved = [path.resolve() for path in paths]
  for i, path in enumerate(resolved):
    if path in resolved[:i]:
      raise UsageError(f"{paths[i]} is given twice: give each workdir once")
  results = [_results(path) for path in paths]
  names = _names(resolved)
  return [
    Run(name, path, found, *_metrics(path, found["config"].get("epochs") != 0))
    for name, path, found in zip(names, paths, results, strict=True)
  ]


def _results(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_dir():
    raise UsageError(f"{path} is not a folder: give the workdir of a run")
  file = path / "results.json"
  again = "run its command again with --config.mode=evaluate"
  if not file.exists():
    raise UsageError(
      f"{path} has no results.json: finish its run (`python -m essl_jax.main`"
      f" with --workdir={path}), or, if training is finished, {again}"
    )
  try:
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("config", {}) is None:
      raise ValueError("it is not a JSON object, or its config is null")
  except (OSError, ValueError) as error:
    raise UsageError(
      f"cannot read {file} ({error}): {again} to write a new one"
    ) from error
  if "config" not in found:
    found["config"] = read_config(path)
  found["config"] = older.upgrade(found["config"])
  return found


def _metrics(
  path: pathlib.Path, is_trained: bool
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
  """The lines of `metrics.jsonl`, and what is wrong with it."""
  if not is_trained:
    return [], ()
  try:
    text = (path / "metrics.jsonl").read_text(encoding="utf-8")
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or error
    return [], (f"no training curves: cannot read metrics.jsonl ({reason})",)
  lines, broken = [], 0
  for line in text.splitlines():
    try:
      lines.append(dict(json.loads(line)))
    except (ValueError, TypeError):
      broken += 1
  lines.sort(key=lambda line: line.get("step", 0))
  notes = (f"{broken} broken line(s) of metrics.jsonl left out",)
  return lines, notes if broken else ()


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
  """As many last parts of each path as tell them all apart."""
  depth = 1
  while True:
    names = ["/".join(path.parts[-depth:]) for path in paths]
    if len(set(names)) == len(names):
      return names
    depth += 1


def _is_number(value: Any) -> bool:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return is_number and math.isfinite(value)
