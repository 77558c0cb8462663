"""Records of measurements: where they are from, and how to go on with one."""

from collections.abc import Mapping, Sequence
import errno
import os
import pathlib
from typing import Any

from essl_jax.errors import UsageError
import essl_jax.start  # noqa: F401
from essl_jax.storage import environment, json_files, metrics


def origin(host: Mapping[str, Any]) -> dict[str, Any]:
  """What measured.

  Args:
    host: of `programs.host`, from before the measurement was its load.

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
    path: of the folder, which may be there.

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
  """Refuses a file that cannot be written, before anything is measured for it.

  Args:
    option: that names it.
    path: of the file, which may be there.

  Raises:
    UsageError: it is a folder, has none, or is not writable.
  """
  if path.is_dir():
    raise UsageError(f"--{option}={path} is a folder: give a file")
  if not path.parent.is_dir():
    raise UsageError(f"--{option}={path}: there is no folder {path.parent}")
  if not os.access(path if path.exists() else path.parent, os.W_OK):
    raise UsageError(f"--{option}={path} is not writable: give another file")


def read_metrics(workdir: pathlib.Path) -> list[Any]:
  """Reads the metrics of a run, which may be going on.

  Args:
    workdir: of the run.

  Returns:
    What `metrics.read` returns.

  Raises:
    OSError: they cannot be read.
    ValueError: it is no regular file.
  """
  if not metrics.files(workdir):
    raise FileNotFoundError(
      errno.ENOENT, os.strerror(errno.ENOENT), f"{workdir}/metrics-*.jsonl"
    )
  return metrics.read(workdir)


def resume(
  path: pathlib.Path, circumstances: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, Any]:
  """Reads the cells that an earlier start has measured.

  Args:
    path: of the record, which need not be there yet; its folder is.
    circumstances: of this start, by name.
    keys: that each cell has, beside others.

  Returns:
    The record: circumstances, and `cells`.

  Raises:
    UsageError: the file is no such record or of other circumstances, or its
      folder cannot be written to.
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
      f"{path} is no record of such measurements: remove it, or give another"
      " --out"
    )
  for name, value in circumstances.items():
    if record.get(name) != value:
      raise UsageError(
        f"{path} is of {name} {record.get(name)} and this start of {value}:"
        " give another --out, or remove it to measure all anew"
      )
  return record
