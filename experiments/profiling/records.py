"""Records of measurements: their origin, and how to resume one."""

from collections.abc import Mapping, Sequence
import errno
import os
import pathlib
from typing import Any

from essl_jax.errors import UsageError
import essl_jax.start  # noqa: F401
from essl_jax.storage import environment, json_files, metrics


def origin(host: Mapping[str, Any]) -> dict[str, Any]:
  """Describes the program and machine of a measurement.

  Args:
    host: from `programs.host`, called before the measurement adds to the load.

  Returns:
    `program`, its `version`, the kind of `device`, `git_commit` and `host`.
  """
  machine = environment.describe()
  return {
    "program": "essl_jax",
    "version": f"jax {machine['jax']}",
    "device": machine["device_kind"],
    "git_commit": machine["git_commit"],
    "host": dict(host),
  }


def make_folder(path: pathlib.Path) -> None:
  """Makes the folder of a record, before anything is measured for it.

  Args:
    path: path of the folder, which may exist.

  Raises:
    UsageError: it cannot be made.
  """
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UsageError(
      f"{error.filename} cannot be made a folder: {error.strerror}"
    ) from error


def check_file(option: str, path: pathlib.Path) -> None:
  """Raises UsageError early for a file that cannot be written.

  Args:
    option: the option that names the file.
    path: path of the file, which may exist.

  Raises:
    UsageError: it is a folder, its folder is missing, or it is not writable.
  """
  if path.is_dir():
    raise UsageError(f"--{option}={path} is a folder: give a file")
  if not path.parent.is_dir():
    raise UsageError(f"--{option}={path}: there is no folder {path.parent}")
  if not os.access(path if path.exists() else path.parent, os.W_OK):
    raise UsageError(f"--{option}={path} is not writable: give another file")


def read_metrics(workdir: pathlib.Path) -> list[Any]:
  """Reads the metrics of a run, which may still be running.

  Args:
    workdir: workdir of the run.

  Returns:
    The result of `metrics.read`.

  Raises:
    OSError: they cannot be read.
    ValueError: a file is not a regular file.
  """
  if not metrics.files(workdir):
    raise FileNotFoundError(
      errno.ENOENT, os.strerror(errno.ENOENT), f"{workdir}/metrics-*.jsonl"
    )
  return metrics.read(workdir)


def resume(
  path: pathlib.Path, circumstances: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, Any]:
  """Reads the cells that an earlier start measured.

  Args:
    path: path of the record, which may not exist yet; its folder exists.
    circumstances: conditions of this start, by name.
    keys: keys that each cell must have.

  Returns:
    The record: circumstances, and `cells`.

  Raises:
    UsageError: the file is not such a record or has other circumstances, or its
      folder is not writable.
  """
  if not os.access(path.parent, os.W_OK):
    raise UsageError(f"{path.parent} is not writable: give another --out")
  if not path.exists():
    return {**circumstances, "cells": []}
  try:
    record = json_files.read_object(path)
    is_record = all(
      isinstance(cell[key], int | float | str)
      for cell in record["cells"]
      for key in keys
    )
  except (OSError, ValueError, TypeError, KeyError):
    is_record = False
  if not is_record:
    raise UsageError(
      f"{path} is not a record of such measurements: remove it, or give another"
      " --out"
    )
  for name, value in circumstances.items():
    if record.get(name) != value:
      raise UsageError(
        f"{path} has {name} {record.get(name)}, but this start has {value}:"
        " give another --out, or remove it to measure everything again"
      )
  return record
