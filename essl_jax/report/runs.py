"""Reads finished runs from the JSON files in their workdirs."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, TypeGuard

from essl_jax.config import older
from essl_jax.errors import UsageError, told
from essl_jax.evaluation.evaluation import Row
from essl_jax.storage import buckets, json_files, metrics, places
from essl_jax.storage.workdir import read_config

Points = list[tuple[float, float]]
_LARGEST = 3.4e38  # largest float32; pictures of larger numbers overflow


@dataclasses.dataclass(frozen=True)
class Run:
  """One run.

  Attributes:
    name: short name, different from those of the other runs.
    path: its workdir, absolute.
    results: the content of `results.json`.
    metrics: the lines of `metrics-*.jsonl`.
    notes: lines about everything that could not be read.
  """

  name: str
  path: places.Path
  results: Mapping[str, Any]
  metrics: Sequence[Mapping[str, Any]]
  notes: tuple[str, ...] = ()

  @property
  def config(self) -> Mapping[str, Any]:
    """The config of the last evaluation, nested."""
    return self.results.get("config", {})

  def figures(self, measure: str) -> Mapping[str, Any]:
    """The figures of one measure; empty if it was not measured."""
    return self.results.get("figures", {}).get(measure, {})

  def scalars(self) -> set[str]:
    """Names of the numbers in `metrics-*.jsonl`."""
    names = {name for line in self.metrics for name in line}
    return {name for name in names if self.curve(name)} - {"wall_time", "step"}

  def curve(self, name: str) -> Points:
    """Steps and values of a number in `metrics-*.jsonl`; see `is_number`."""
    return [
      (line["step"], float(line[name]))
      for line in self.metrics
      if is_number(line.get(name))
    ]

  @property
  def spread_out(self) -> float | None:
    """Deviation per dimension of embeddings spread over the sphere."""
    widths = mapping(self.config.get("projector")).get("widths")
    last = widths[-1] if isinstance(widths, list) and widths else None
    return last**-0.5 if is_number(last) and last > 0 else None

  def steps_per_epoch(self, name: str, section: str) -> int | None:
    """Infers the steps per epoch from the steps at which a figure was measured.

    Args:
      name: name of the figure.
      section: config section of the evaluation that measured it.

    Returns:
      The number; None if it is unclear or not measured per epoch.
    """
    steps = [step for step, _ in self.curve(name) if step > 0]
    every = mapping(self.config.get(section)).get("every_epochs")
    epochs = self.config.get("epochs")
    if not is_number(every) or not is_number(epochs):
      return None
    if not steps or epochs <= 0 or every < 0:
      return None
    each, rest = divmod(min(steps), min(every or epochs, epochs))
    is_clear = each > 0 and not rest and max(steps) <= each * epochs
    return int(each) if is_clear else None


def read(workdirs: Sequence[str]) -> list[Run]:
  """Reads the JSON files of several runs.

  Args:
    workdirs: workdirs of the runs.

  Returns:
    The runs in this order.

  Raises:
    UsageError: a folder is missing, has no readable results, or is given twice.
  """
  paths = [places.locate(workdir) for workdir in workdirs]
  resolved = list(map(places.resolve, paths))
  for i, path in enumerate(resolved):
    if path in resolved[:i]:
      raise UsageError(f"{paths[i]} is given twice: give each workdir once")
  results = [_results(path) for path in paths]
  runs = []
  for name, path, found in zip(_names(resolved), paths, results, strict=True):
    known, wrong = _usable(found)
    metrics, broken = _metrics(path, known["config"].get("epochs") != 0)
    runs.append(Run(name, path, known, metrics, (*wrong, *broken)))
  return runs


def _results(path: places.Path) -> dict[str, Any]:
  with buckets.refused(path):
    if not places.is_folder(path):
      why = buckets.missing(path) or "give the workdir of a run"
      raise UsageError(f"{path} is not a folder: {why}")
  file = path / "results.json"
  again = "run its command again with --config.mode=evaluate"
  if not places.exists(file):
    raise UsageError(
      f"{path} has no results.json: finish its run (`python -m essl_jax.main`"
      f" with --workdir={path}), or, if training is finished, {again}"
    )
  try:
    found = json_files.read_object(file)
    if not isinstance(found.get("config", {}), dict):
      raise ValueError("its config is not a JSON object")
  except (OSError, ValueError) as error:
    raise UsageError(
      f"cannot read {file} ({error}): {again} to write a new one"
    ) from error
  if "config" not in found:
    found["config"] = read_config(path)
  with told(f"cannot read the config in {file}"):
    found["config"] = older.upgrade(found["config"])
  return found


def _usable(found: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
  """Results without malformed parts, and a line about each such part."""
  known, wrong = dict(found), list[str]()
  inner: dict[str, type] = {"figures": dict, "rows": list, "untrained": object}
  inner |= {"training": object, "environment": object, "measured": str}
  for name, kind in inner.items():
    value = known.pop(name, None)
    if value is None:
      continue
    if not isinstance(value, dict):
      wrong.append(f"{name} of results.json left out: it is not a JSON object")
      continue
    known[name] = {
      key: x
      for key, x in value.items()
      if isinstance(x, kind) and (name != "rows" or _are_rows(x))
    }
    wrong += [
      f"{name} of {key} in results.json left out: they have a wrong form"
      for key in value.keys() - known[name].keys()
    ]
  if "step" in known and not is_number(known["step"]):
    del known["step"]
    wrong.append("step of results.json left out: it is not a number")
  return known, wrong


def _are_rows(found: Any) -> bool:
  return all(
    isinstance(row, list)
    and len(row) == len(Row._fields)
    and all(isinstance(text, str) for text in row)
    for row in found
  )


def _metrics(
  path: places.Path, is_trained: bool
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
  """The lines of `metrics-*.jsonl`, and notes about broken ones."""
  if not is_trained:
    return [], ()
  try:
    found = metrics.read(path, with_half=True)
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or error
    return [], (f"no training curves: cannot read metrics-*.jsonl ({reason})",)
  lines = [x for x in found if x and is_number(x.get("step"))]
  lines.sort(key=lambda line: line["step"])
  broken = len(found) - len(lines)
  notes = (f"{broken} broken line(s) of metrics-*.jsonl left out",)
  return lines, notes if broken else ()


def _names(paths: Sequence[places.Path]) -> list[str]:
  """The shortest endings of the paths that are all different."""
  depth = 1
  while True:
    names = ["/".join(path.parts[-depth:]) for path in paths]
    if len(set(names)) == len(names):
      return names
    depth += 1


def is_number(value: Any) -> TypeGuard[float]:
  """Whether a value of a JSON file is a number that fits into float32."""
  is_real = isinstance(value, int | float) and not isinstance(value, bool)
  return is_real and abs(value) <= _LARGEST


def mapping(value: Any) -> Mapping[str, Any]:
  """A value of a JSON file if it is an object, else an empty one."""
  return value if isinstance(value, Mapping) else {}
