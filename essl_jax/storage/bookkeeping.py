"""Checks the files and folders of a workdir before work begins.

Damaged files are set aside, so that no run fails on one after its work is done.
"""

from collections.abc import Callable
import itertools
import math
import os
import re
from typing import Any

from essl_jax.config import older
from essl_jax.errors import UsageError
from essl_jax.storage import json_files, metrics, places, starts
from essl_jax.texts import first_line

_STEP = re.compile(r"0|[1-9][0-9]*")  # a whole checkpoint's folder


def has_checkpoint(workdir: str | os.PathLike[str]) -> bool:
  """Returns whether a workdir holds a whole checkpoint."""
  steps = (x for x in _saved(workdir) if _STEP.fullmatch(x.name))
  return any(map(_is_whole, steps))


def _is_whole(checkpoint: places.Path) -> bool:
  """Orbax renames a complete folder; in a bucket it adds a marker file."""
  if places.is_remote(checkpoint):
    return places.exists(checkpoint / "commit_success.txt")
  return places.is_folder(checkpoint)


def _saved(workdir: str | os.PathLike[str]) -> list[places.Path]:
  """Lists everything in a workdir's `checkpoints` folder."""
  folder = places.locate(workdir) / "checkpoints"
  return [folder / name for name in places.names(folder)]


def set_aside(path: places.Path, why: str = "damaged") -> places.Path:
  """Renames a path out of the way; returns the new one, `NAME.damaged-1`."""
  for i in itertools.count(1):
    new = path.with_name(f"{path.name}.{why}-{i}")
    if not places.exists(new):
      places.rename(path, new)
      return new
  raise AssertionError


def begin_anew(workdir: places.Path) -> None:
  """Lets a run start over in a workdir that never had a checkpoint.

  If the first save was interrupted, its record and the figures of its steps are
  renamed.

  Args:
    workdir: of a run; holds no complete checkpoint.

  Raises:
    UsageError: a run was trained here, or its checkpoints are out of reach.
  """
  record, results = workdir / "starts.json", workdir / "results.json"
  checkpoints = workdir / "checkpoints"
  if os.path.islink(checkpoints) and not os.path.exists(checkpoints):
    raise UsageError(
      f"{checkpoints} is a link to {os.readlink(checkpoints)}, which does not"
      " exist: mount or restore that folder, or remove the link to start over"
    )
  names = [path.name for path in _saved(workdir)]
  evidence = [f"checkpoints/{x}" for x in names if ".damaged-" in x]
  is_cut = not evidence and any(map(_is_cut_save, _saved(workdir)))
  if is_cut and places.exists(record):
    _cut(record)  # before the remains of the save are removed
  elif not is_cut and places.exists(record):
    evidence.append(record.name)
  logs = metrics.files(workdir)
  evidence += [path.name for start, path in logs.items() if start]
  try:
    is_trained = bool(json_files.read_object(results).get("step"))
  except (OSError, ValueError):
    is_trained = False
  if is_trained:
    evidence.append(results.name)
  if evidence:
    found = " and ".join(evidence)
    raise UsageError(
      f"workdir {workdir} holds a trained run ({found}), but its checkpoints"
      " are gone: put them back or choose another --workdir; to start over,"
      f" remove {found}"
    )
  for path in logs.values():
    if _has_steps(path):
      _cut(path)


def _is_cut_save(path: places.Path) -> bool:
  """Whether this is the remains of an interrupted save."""
  if places.is_remote(path):
    return _STEP.fullmatch(path.name) is not None and not _is_whole(path)
  return ".orbax-checkpoint-tmp" in path.name


def _has_steps(path: places.Path) -> bool:
  """Whether a file holds figures of training steps."""
  try:
    lines = json_files.read_lines(path)
  except (OSError, ValueError):
    return False  # not a regular file; `mend` sets it aside
  steps = (line.get("step") for line in lines if line)
  return any(isinstance(step, int) and step > 0 for step in steps)


def _cut(path: places.Path) -> None:
  """Renames a file left by a start that ended before its first save."""
  print(
    f"no complete checkpoint: training starts over, and {path} of the earlier"
    f" start is now {set_aside(path, 'cut').name}"
  )


def mend(workdir: places.Path) -> None:
  """Sets aside damaged files that a run would fail on; prints a line for each.

  Args:
    workdir: held by this process.

  Raises:
    UsageError: the config is damaged, and there are checkpoints.
    OSError: a file cannot be read or renamed.
  """
  config = workdir / "config.json"
  if has_checkpoint(workdir) and (why := _damage(config, _check_config)):
    raise UsageError(
      f"{config} is damaged ({why}), so the config of the checkpoints is"
      " unknown: restore it, or remove it if this command sets the same fields"
      " as the run"
    )
  for name, check in _CHECKS.items():
    keep_whole(workdir / name, check)
  for path in metrics.files(workdir).values():
    keep_whole(path, _check_metrics)
  for path in _saved(workdir):  # Orbax would wait forever on a pipe
    if path.name[0].isdigit() and ".damaged-" not in path.name:
      keep_whole(path, check_folder)
      # Orbax does not need it, but fails if it is another JSON type.
      keep_whole(path / "_CHECKPOINT_METADATA", json_files.read_object)


def keep_whole(path: places.Path, check: Callable[[places.Path], Any]) -> None:
  """Sets a damaged path aside and prints a warning.

  Args:
    path: of a file or folder; it need not exist.
    check: raises ValueError if the path is damaged.
  """
  if why := _damage(path, check):
    _replace(path, why)


def _damage(path: places.Path, check: Callable[[places.Path], Any]) -> str:
  """Says what is wrong with a path; empty if it is whole or missing."""
  if not places.exists(path):
    return ""
  if not places.is_remote(path) and not os.path.exists(path):
    return "it is a broken link"
  try:
    check(path)
  except ValueError as error:
    return first_line(error)
  return ""


def _replace(path: places.Path, why: str) -> None:
  new = set_aside(path)
  print(f"warning: {path} is damaged ({why}): it is now {new.name}")
  if not metrics.NAME.fullmatch(path.name):
    return
  try:
    lines = json_files.read_lines(new)
  except (OSError, ValueError):
    return  # not a regular file, or not text
  metrics.write(path, [line for line in lines if _is_figures(line)])


def _check_config(path: places.Path) -> None:
  try:
    config = older.upgrade(json_files.read_object(path))
    "".join(config.get("evaluations", []))  # raises unless all are strings
  except (TypeError, KeyError, AttributeError) as error:
    raise ValueError("its fields have the wrong types") from error


def _check_results(path: places.Path) -> None:
  found = json_files.read_object(path)
  parts = [x for name, x in found.items() if name != "step"]
  figures = found.get("figures", {})
  if isinstance(figures, dict):
    parts += figures.values()
  if not all(isinstance(x, dict) for x in parts):
    raise ValueError("it holds no results")


def _check_starts(path: places.Path) -> None:
  found = json_files.read(path)
  if not isinstance(found, list) or not all(map(_is_start, found)):
    raise ValueError("it holds no starts")


def _check_loggers(path: places.Path) -> None:
  kept = json_files.read_object(path).values()
  texts = [y for x in kept if isinstance(x, dict) for y in x.values()]
  if not all(isinstance(x, dict) for x in kept) or not all(
    isinstance(y, str) for y in texts
  ):
    raise ValueError("it must hold texts by logger")


def _is_start(record: Any) -> bool:
  return (
    isinstance(record, dict)
    and all(_is_number(record.get(x)) for x in starts.FIELDS)
    and all(record[x] >= 0 for x in starts.FIELDS)
    and bool(record["timed_seconds"] or not record["timed_steps"])
  )


def _check_metrics(path: places.Path) -> None:
  if not all(map(_is_figures, json_files.read_lines(path))):
    raise ValueError("some lines hold no figures of a step")


def _is_figures(line: dict[str, Any] | None) -> bool:
  return (
    line is not None
    and isinstance(line.get("step"), int)
    and line["step"] >= 0
    and all(x is None or _is_number(x) for x in line.values())
  )


def check_file(path: places.Path) -> None:
  """Raises ValueError unless the path is a regular file."""
  if not places.is_remote(path) and not os.path.isfile(path):
    raise ValueError("it is not a regular file")


def check_folder(path: places.Path) -> None:
  """Raises ValueError unless the path is a folder."""
  if not places.is_folder(path):
    raise ValueError("it is not a folder")


def _is_number(value: Any) -> bool:
  if isinstance(value, float):
    return math.isfinite(value)
  is_int = isinstance(value, int) and not isinstance(value, bool)
  return is_int and abs(value) < 2**63


_CHECKS: dict[str, Callable[[places.Path], Any]] = {
  "checkpoints": check_folder,
  "tensorboard": check_folder,
  "config.json": _check_config,
  "about.json": json_files.read_object,
  "loggers.json": _check_loggers,
  "starts.json": _check_starts,
  "results.json": _check_results,
  "results.partial.json": _check_results,
  "summary.png": check_file,
}
