"""Tells a damaged checkpoint from other trouble in reading it."""

from collections.abc import Callable, Mapping
import os
import pathlib
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from essl_jax.errors import UsageError, describe_trouble
from essl_jax.storage import digest, places
from essl_jax.texts import first_line, some


class DamagedError(Exception):
  """A checkpoint differs from what was saved; the message says how."""


def attempt(
  read: Callable[[int], Any], step: int, folder: places.Path
) -> tuple[Any, str]:
  """Reads a checkpoint; all processes call this and reach the same verdict.

  Args:
    read: reads the checkpoint of a step.
    step: which one.
    folder: of this checkpoint.

  Returns:
    What was read, and why the checkpoint is damaged; empty if it is not.

  Raises:
    UsageError: from `read`, or because files may not be read.
  """
  # Networks fail for a while, and Orbax takes some failures for missing files.
  tries = 2 if places.is_remote(folder) else 1
  for _ in range(tries):
    found, why = _try(read, step, folder)
    if jax.process_count() > 1:
      others = multihost_utils.process_allgather(np.int32(bool(why)))
      if others.any() and not why:
        why = "another process cannot read it"
    if not why:
      break
  return found, why


def _try(
  read: Callable[[int], Any], step: int, folder: places.Path
) -> tuple[Any, str]:
  try:
    _check_files(folder)
    return read(step), ""
  except (UsageError, MemoryError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:  # TensorStore and Orbax raise many kinds
    # TensorStore has its own word for missing permissions.
    if describe_trouble(error) or "PERMISSION_DENIED" in str(error):
      raise
    return None, first_line(error)


def _check_files(folder: places.Path) -> None:
  """Raises UsageError for files that may not be read."""
  if places.is_remote(folder):  # no folders or file permissions there
    return
  if not folder.is_dir():
    raise DamagedError("it is not a folder")
  for path in pathlib.Path(folder).rglob("*"):
    if path.exists() and not os.access(path, os.R_OK):
      raise UsageError(
        f"cannot read {path}: change its permissions, or choose another"
        " --workdir"
      )


def check_regular(directory: places.Path) -> None:
  """Refuses checkpoints with pipes or devices: reading one might never end.

  Args:
    directory: of all checkpoints; it need not exist.

  Raises:
    UsageError: names the first such file.
  """
  if places.is_remote(directory):
    return
  for path in pathlib.Path(directory).rglob("*"):
    if path.exists() and not path.is_file() and not path.is_dir():
      raise UsageError(
        f"{path} is not a regular file: move it away, or move away its"
        " checkpoint's folder to resume from an older one, if there is one"
      )


def check_forms(digests: Mapping[str, str], stored: Mapping[str, Any]) -> None:
  """Raises DamagedError if shapes or dtypes are not those that were saved.

  Args:
    digests: by name, as they were saved; earlier versions saved none.
    stored: objects with a shape and a dtype, by name.
  """
  _compare(
    {name: text.partition(" ")[0] for name, text in digests.items()},
    {name: digest.form(x) for name, x in stored.items()},
  )


def check_arrays(digests: Mapping[str, str], arrays: Mapping[str, Any]) -> None:
  """Like `check_forms`, for the contents of the arrays."""
  known = {name: x for name, x in arrays.items() if name in digests}
  _compare(digests, {name: digest.of(x) for name, x in known.items()})


def _compare(saved: Mapping[str, str], found: Mapping[str, str]) -> None:
  different = [name for name in saved if saved[name] != found.get(name)]
  if different:
    raise DamagedError(f"{some(different)}: not what was saved")


def check_network(
  stored: Mapping[str, Any], wanted: Mapping[str, Any], folder: places.Path
) -> None:
  """Raises UsageError naming the first arrays that differ from those wanted."""
  there = {name: digest.form(x) for name, x in stored.items()}
  here = {name: digest.form(x) for name, x in wanted.items()}
  different = [
    f"{name} is {there.get(name, 'absent')} there, "
    f"{here.get(name, 'absent')} here"
    for name in here | there
    if here.get(name) != there.get(name)
  ]
  if different:
    found = some(different, separator="; ")
    raise UsageError(
      f"checkpoint holds a different network: {found} (step {folder.name} in"
      f" {folder.parent}): choose another --workdir or use the config that it"
      " was trained with"
    )
