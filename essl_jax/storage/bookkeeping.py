"""A workdir's files and folders, looked at before work begins.

What is damaged is set aside, so that no run ends of it when its work is done.
"""

from collections.abc import Callable
import itertools
import json
import math
import os
import pathlib
import re
from typing import Any

from essl_jax.config import older
from essl_jax.errors import UsageError
from essl_jax.storage import json_files, starts
from essl_jax.storage import workdir as workdir_lib
from essl_jax.texts import first_line

_STEP = re.compile(r"0|[1-9][0-9]*")  # a whole checkpoint's folder


def has_checkpoint(workdir: str | os.PathLike[str]) -> bool:
  """Returns whether a workdir holds a whole checkpoint."""
  return any(x.is_dir() and _STEP.fullmatch(x.name) for x in _saved(workdir))


def _saved(workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
  """What lies in the folder of a workdir's checkpoints."""
  folder = workdir_lib.local_path(workdir) / "checkpoints"
  return list(folder.iterdir()) if folder.is_dir() else []


def set_aside(path: pathlib.Path, why: str = "damaged") -> pathlib.Path:
  """Renames what is not to be used; returns its new path, `NAME.damaged-1`."""
  for i in itertools.count(1):
    new = path.with_name(f"{path.name}.{why}-{i}")
    if not os.path.lexists(new):
      path.rename(new)
      return new
  raise AssertionError


def begin_anew(workdir: pathlib.Path) -> None:
  """Lets a workdir without a checkpoint be begun, unless some were saved.

  Where the first save was cut off, its record and the figures of its steps are
  renamed.

  Args:
    workdir: of a run; holds no whole checkpoint.

  Raises:
    UsageError: it has been trained in, or its checkpoints are out of reach.
  """
  record, results = workdir / "starts.json", workdir / "results.json"
  checkpoints, metrics = workdir / "checkpoints", workdir / "metrics.jsonl"
  if checkpoints.is_symlink() and not checkpoints.exists():
    raise UsageError(
      f"{checkpoints} is a link to {os.readlink(checkpoints)}, which is not"
      " there: mount or restore that folder, or remove the link to begin anew"
    )
  names = [path.name for path in _saved(workdir)]
  evidence = [f"checkpoints/{x}" for x in names if ".damaged-" in x]
  is_cut = not evidence and any(".orbax-checkpoint-tmp" in x for x in names)
  if is_cut and record.is_file():
    _cut(record)  # before what is left of the save goes
  elif not is_cut and os.path.lexists(record):
    evidence.append(record.name)
  try:
    is_trained = bool(json_files.read_object(results).get("step"))
  except (OSError, ValueError):
    is_trained = False
  if is_trained:
    evidence.append(results.name)
  if evidence:
    found = " and ".join(evidence)
    raise UsageError(
      f"workdir {workdir} has been trained in ({found}), but its checkpoints"
      " are gone: put them back or choose another --workdir; to begin anew,"
      f" remove {found}"
    )
  if _has_steps(metrics):
    _cut(metrics)


def _has_steps(metrics: pathlib.Path) -> bool:
  """Whether there are figures of training."""
  if not metrics.is_file():
    return False
  steps = (line.get("step") for line in json_files.read_lines(metrics) if line)
  return any(isinstance(step, int) and step > 0 for step in steps)


def _cut(path: pathlib.Path) -> None:
  """Renames what a start has left that was ended before its first save."""
  print(
    f"no checkpoint is whole: training begins anew, and {path} of the start"
    f" before is now {set_aside(path, 'cut').name}"
  )


def mend(workdir: pathlib.Path) -> None:
  """Sets aside what a run would stumble over, with a line for each.

  Args:
    workdir: held by this process.

  Raises:
    UsageError: the config is damaged, and guards checkpoints.
    OSError: something cannot be read, or not be renamed.
  """
  config = workdir / "config.json"
  if has_checkpoint(workdir) and (why := _damage(config, _check_config)):
    raise UsageError(
      f"{config} is damaged ({why}) and says which config the checkpoints are"
      " of: restore it, or remove it if the fields of this command are those of"
      " the run"
    )
  for name, check in _CHECKS.items():
    keep_whole(workdir / name, check)
  for path in _saved(workdir):  # Orbax waits for ever at a pipe
    if path.name[0].isdigit() and ".damaged-" not in path.name:
      keep_whole(path, check_folder)
      # Orbax can do without it, but not with another type of JSON.
      keep_whole(path / "_CHECKPOINT_METADATA", json_files.read_object)


def keep_whole(
  path: pathlib.Path, check: Callable[[pathlib.Path], Any]
) -> None:
  """Sets a path aside, and says so, unless it is as it should be.

  Args:
    path: of a file or folder, or of nothing.
    check: raises ValueError where the path is damaged.
  """
  if why := _damage(path, check):
    _replace(path, why)


def _damage(path: pathlib.Path, check: Callable[[pathlib.Path], Any]) -> str:
  """What is wrong with a path; nothing if it is not there."""
  if not os.path.lexists(path):
    return ""
  if not path.exists():
    return "it is a link to nothing"
  try:
    check(path)
  except ValueError as error:
    return first_line(error)
  return ""


def _replace(path: pathlib.Path, why: str) -> None:
  new = set_aside(path)
  print(f"warning: {path} is damaged ({why}): it is now {new.name}")
  if path.name == "metrics.jsonl" and new.is_file():
    whole = filter(_is_figures, json_files.read_lines(new))
    lines = [json.dumps(line) + "\n" for line in whole]
    workdir_lib.replace_text(path, "".join(lines))


def _check_config(path: pathlib.Path) -> None:
  try:
    config = older.upgrade(json_files.read_object(path))
    "".join(config.get("evaluations", []))  # names, which are looked up
  except (TypeError, KeyError, AttributeError) as error:
    raise ValueError("its fields are of other types") from error


def _check_results(path: pathlib.Path) -> None:
  found = json_files.read_object(path)
  parts = [x for name, x in found.items() if name != "step"]
  figures = found.get("figures", {})
  if isinstance(figures, dict):
    parts += figures.values()
  if not all(isinstance(x, dict) for x in parts):
    raise ValueError("it holds no results")


def _check_starts(path: pathlib.Path) -> None:
  found = json_files.read(path)
  if not isinstance(found, list) or not all(map(_is_start, found)):
    raise ValueError("it holds no starts")


def _is_start(record: Any) -> bool:
  return (
    isinstance(record, dict)
    and all(_is_number(record.get(x)) for x in starts.FIELDS)
    and all(record[x] >= 0 for x in starts.FIELDS)
    and bool(record["timed_seconds"] or not record["timed_steps"])
  )


def _check_metrics(path: pathlib.Path) -> None:
  if not all(map(_is_figures, json_files.read_lines(path))):
    raise ValueError("some lines hold no figures of a step")


def _is_figures(line: dict[str, Any] | None) -> bool:
  return (
    line is not None
    and isinstance(line.get("step"), int)
    and line["step"] >= 0
    and all(x is None or _is_number(x) for x in line.values())
  )


def check_file(path: pathlib.Path) -> None:
  """Raises ValueError for what is no regular file."""
  if not path.is_file():
    raise ValueError("it is no regular file")


def check_folder(path: pathlib.Path) -> None:
  """Raises ValueError for what is no folder."""
  if not path.is_dir():
    raise ValueError("it is no folder")


def _is_number(value: Any) -> bool:
  if isinstance(value, float):
    return math.isfinite(value)
  is_int = isinstance(value, int) and not isinstance(value, bool)
  return is_int and abs(value) < 2**63


_CHECKS: dict[str, Callable[[pathlib.Path], None]] = {
  "checkpoints": check_folder,
  "tensorboard": check_folder,
  "config.json": _check_config,
  "starts.json": _check_starts,
  "results.json": _check_results,
  "results.partial.json": _check_results,
  "metrics.jsonl": _check_metrics,
  "summary.png": check_file,
}
