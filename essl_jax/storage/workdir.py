"""Ties the directory of a run to its config."""

from collections.abc import Collection, Mapping
import json
import math
import os
import tempfile
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from essl_jax.config import older
from essl_jax.errors import UsageError, describe_trouble
from essl_jax.storage import json_files, places
from essl_jax.texts import first_line

SHARED_SECONDS = 30.0  # for a new file to become visible on other hosts


def check_config(
  workdir: str | os.PathLike[str],
  config: Mapping[str, Any],
  *,
  ignore: Collection[str] = (),
  defaults: Mapping[str, Any] | None = None,
  overwrite: bool = False,
) -> None:
  """Ties a workdir to a config: writes it at first, compares it later.

  The first config stays on disk, even if ignored fields have changed. Only
  process 0 writes.

  Args:
    workdir: directory of the run; created if missing.
    config: nested dict that JSON can hold.
    ignore: dotted names that may differ; "logging" covers all names below it.
    defaults: nested like the config. A field that the workdir's config lacks
      may have this value without counting as different.
    overwrite: replaces an earlier config, if nothing was trained with it.

  Raises:
    UsageError: if the workdir cannot be used, or belongs to another config.
  """
  problem = ""
  if jax.process_index() == 0:
    problem = _claim(workdir, config, ignore, defaults or {}, overwrite)
  if problem := from_process_0(problem):  # all processes stop, or none
    raise UsageError(problem)


def _claim(
  workdir: str | os.PathLike[str],
  config: Mapping[str, Any],
  ignore: Collection[str],
  defaults: Mapping[str, Any],
  overwrite: bool,
) -> str:
  """Does the work of `check_config`; returns what is wrong, or ""."""
  try:
    path = places.locate(workdir)
    if not places.is_remote(path):  # in a bucket, writing a lease just worked
      path.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryFile(dir=path):
        pass
    if overwrite or not places.exists(path / "config.json"):
      write_json(path / "config.json", config)
    there = dotted(read_config(workdir))
  except UsageError as error:
    return str(error)
  except OSError as error:
    if describe_trouble(error):
      raise
    return unwritable(workdir, error)
  here = dotted(to_json(config))
  usual = dotted(to_json(defaults))
  different = [
    f"{name} is {_show(there, name)} there, {_show(here, name)} here"
    for name in here | there
    if (name in there, there.get(name)) != (name in here, here.get(name))
    # Skip fields that are newer than the run and have their default value.
    and (name in there or here[name] not in (None, usual.get(name)))
    and not any(f"{name}.".startswith(f"{prefix}.") for prefix in ignore)
  ]
  if not different:
    return ""
  return (
    f"workdir {workdir} holds a run with another config: "
    + "; ".join(different)
    + ": choose another --workdir or restore these fields"
  )


def check_shared(workdir: str | os.PathLike[str]) -> None:
  """Refuses a workdir that is a different folder on some hosts.

  All processes call this; process 0 creates the folder.

  Args:
    workdir: of the run, the same in all processes.

  Raises:
    UsageError: in all processes, naming those that do not see the folder.
  """
  path = places.locate(workdir)
  mark = path / f".process-0.{os.getpid()}.{time.time_ns()}.essl.tmp"
  problem = ""
  if jax.process_index() == 0:
    try:
      path.mkdir(parents=True, exist_ok=True)
      places.replace_bytes(mark, b"")
    except OSError as error:
      problem = unwritable(workdir, error)
  if problem := from_process_0(problem):
    raise UsageError(problem)
  there = path / from_process_0(mark.name)
  deadline = time.monotonic() + SHARED_SECONDS
  while not (seen := places.exists(there)) and time.monotonic() < deadline:
    time.sleep(0.2)  # network file systems may show a new file late
  mine = np.array([jax.process_index(), seen], np.int32)
  everybody = multihost_utils.process_allgather(mine)
  places.remove(mark)
  blind = sorted(int(index) for index, seen in everybody if not seen)
  if blind:
    raise UsageError(
      f"workdir {workdir} is not shared: process {', '.join(map(str, blind))}"
      " does not see what process 0 wrote there: choose a --workdir on a file"
      " system that all hosts mount"
    )


def unwritable(workdir: str | os.PathLike[str], error: OSError) -> str:
  """Returns a one-line message that a workdir cannot be written."""
  return (
    f"cannot write to workdir {workdir}: {error}: choose another --workdir or"
    " change its permissions"
  )


def from_process_0(text: str) -> str:
  """Gives all processes the text of process 0, cut to 4096 bytes."""
  padded = np.zeros(4096, np.uint8)
  encoded = np.frombuffer(text.encode()[:4096], np.uint8)
  padded[: len(encoded)] = encoded
  received = np.asarray(multihost_utils.broadcast_one_to_all(padded))
  return received.tobytes().rstrip(b"\0").decode(errors="replace")


def read_config(workdir: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns the config that a workdir's run started with.

  Args:
    workdir: directory of a run.

  Returns:
    The nested dict given to `check_config`, tuples as lists; a config written
    by an earlier version is brought up to date.

  Raises:
    UsageError: if the workdir holds no run or its config cannot be read.
  """
  path = places.locate(workdir) / "config.json"
  try:
    return older.upgrade(json_files.read_object(path))
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UsageError(
      f"workdir {workdir} holds no run ({path} does not exist): give the "
      "--workdir of a training"
    ) from error
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    if describe_trouble(error):
      raise
    raise UsageError(
      f"cannot read {path}: {first_line(error)}: restore the file or choose"
      " another --workdir"
    ) from error


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Flattens a nested dict; an empty dict stays a value.

  Args:
    tree: nested dict.
    prefix: start of all names.

  Returns:
    The values by dotted names, such as "model.width".
  """
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat |= dotted(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def _show(flat: Mapping[str, Any], name: str) -> str:
  """Returns a field as JSON, or "absent"."""
  return json.dumps(flat[name]) if name in flat else "absent"


def to_json(data: Any) -> Any:
  """Returns the same data in the types of JSON.

  Args:
    data: nested mappings, lists, tuples, arrays, NumPy scalars and paths.

  Returns:
    Dicts, lists, numbers and strings; None for NaN and infinities.
  """
  if isinstance(data, Mapping):
    return {str(key): to_json(value) for key, value in data.items()}
  if isinstance(data, list | tuple):
    return [to_json(value) for value in data]
  if isinstance(data, os.PathLike):
    return os.fspath(data)
  if hasattr(data, "tolist"):
    return to_json(data.tolist())
  if isinstance(data, float) and not math.isfinite(data):
    return None
  return data


def write_json(path: str | os.PathLike[str], data: Any) -> None:
  """Writes data as indented JSON, all of it or nothing.

  Args:
    path: file to write or replace; its directory must exist.
    data: JSON content; arrays, NumPy scalars and paths too. NaN and infinities
      become null.

  Raises:
    TypeError: if the data holds something else.
    OSError: if the file cannot be written.
  """
  text = json.dumps(to_json(data), indent=2, allow_nan=False)
  places.replace_text(path, text + "\n")
