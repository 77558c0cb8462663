"""Tells a checkpoint that is damaged from other trouble in reading it."""

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
  """A checkpoint is not what was saved; says why."""


def attempt(
  read: Callable[[int], Any], step: int, folder: places.Path
) -> tuple[Any, str]:
  """Reads a checkpoint; all processes call this, and find the same.

  Args:
    read: reads the checkpoint of a step.
    step: which one.
    folder: of this checkpoint.

  Returns:
    What was read, and why it is damaged; empty where it is not.

  Raises:
    UsageError: of `read`, or something else is wrong than the checkpoint.
  """
  # Networks fail for a while, and Orbax takes some of it for what is not there.
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
    # TensorStore has its own word for a lack of rights.
    if describe_trouble(error) or "PERMISSION_DENIED" in str(error):
      raise
    return None, first_line(error)


def _check_files(folder: places.Path) -> None:
  """Refuses what may not be read."""
  if places.is_remote(folder):  # a bucket holds nothing but objects
    return
  if not folder.is_dir():
    raise DamagedError("it is no folder")
  for path in pathlib.Path(folder).rglob("*"):
    if path.exists() and not os.access(path, os.R_OK):
      raise UsageError(
        f"cannot read {path}: change its permissions, or choose another"
        " --workdir"
      )


def check_regular(directory: places.Path) -> None:
  """Refuses checkpoints with pipes and devices, whose reading might not end.

  Args:
    directory: of all checkpoints; it need not exist.

  Raises:
    UsageError: names the first.
  """
  if places.is_remote(directory):
    return
  for path in pathlib.Path(directory).rglob("*"):
    if path.exists() and not path.is_file() and not path.is_dir():
      raise UsageError(
        f"{path} is no regular file: move it away, or the folder of its"
        " checkpoint to go on from an older one, if there is any"
      )


def check_forms(digests: Mapping[str, str], stored: Mapping[str, Any]) -> None:
  """Raises DamagedError where the description of arrays is not what was saved.

  Args:
    digests: by name, as they were saved; none by earlier versions.
    stored: what has a shape and a dtype, by name.
  """
  _compare(
    {name: text.partition(" ")[0] for name, text in digests.items()},
    {name: digest.form(x) for name, x in stored.items()},
  )


def check_arrays(digests: Mapping[str, str], arrays: Mapping[str, Any]) -> None:
  """As `check_forms`, of the arrays themselves."""
  known = {name: x for name, x in arrays.items() if name in digests}
  _compare(digests, {name: digest.of(x) for name, x in known.items()})


def _compare(saved: Mapping[str, str], found: Mapping[str, str]) -> None:
  different = [name for name in saved if saved[name] != found.get(name)]
  if different:
    raise DamagedError(f"{some(different)}: not what was saved")


def check_network(
  stored: Mapping[str, Any], wanted: Mapping[str, Any], folder: places.Path
) -> None:
  """Raises UsageError naming the first arrays that are not those wanted."""
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
      f" {folder.parent}): choose another --workdir or restore the fields of"
      " its config"
    )
