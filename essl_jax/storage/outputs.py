"""Writes output files that the user names, locally or in a bucket."""

import os
import pathlib

from essl_jax.errors import UsageError
from essl_jax.storage import buckets, lock, places


def check_free(path: str | os.PathLike[str], *, overwrite: bool) -> None:
  """Raises UsageError if a file must not or cannot be written."""
  if places.is_remote(path):
    is_there = buckets.holds(path, "output")
  else:
    file = pathlib.Path(path)
    is_other = file.exists() and not file.is_file()  # a folder or a device
    if is_other or not file.parent.is_dir():
      raise UsageError(
        f"cannot write {path}: give a file in a directory that exists"
      )
    is_there = file.exists()
  if is_there and not overwrite:
    raise UsageError(f"{path} exists: choose another name or add --overwrite")


def write(path: str | os.PathLike[str], content: bytes) -> None:
  """Writes a whole file or nothing; raises UsageError if it cannot."""
  try:
    if not places.is_remote(path):
      file = pathlib.Path(path)
      lock.remove_left_overs(file.parent, file.name)
    with buckets.refused(path):
      places.replace_bytes(path, content)
  except OSError as error:
    raise UsageError(
      f"cannot write {path}: {error.strerror or error}"
    ) from error
