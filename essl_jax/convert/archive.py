"""Reads zip archives of arrays, checked before memory is allocated."""

from collections.abc import Iterator
import contextlib
import math
import pathlib
from typing import Any
import zipfile

import numpy as np

from essl_jax.convert.arrays import BFLOAT16, Budget, Unread, to_float32

_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
  (3, 0): np.lib.format.read_array_header_2_0,
}


@contextlib.contextmanager
def open_zip(path: pathlib.Path, most_gib: float) -> Iterator[zipfile.ZipFile]:
  """Opens an archive whose members fit into memory.

  Args:
    path: the file.
    most_gib: see `Budget`.

  Yields:
    The archive, which verifies the checksums of members that are read.

  Raises:
    UsageError: its members would take too much memory.
    ValueError: a member is encrypted.
    OSError, zipfile.BadZipFile: the file cannot be read, or is damaged.
  """
  with zipfile.ZipFile(path) as members:
    budget = Budget(path, most_gib)
    for member in members.infolist():
      if member.flag_bits & 1:
        raise ValueError(f"{member.filename} is encrypted: decrypt it first")
      if member.compress_size > path.stat().st_size:
        raise ValueError(f"{member.filename} is cut off")
      budget.take(member.file_size)
    yield members


def read_npz(path: pathlib.Path, most_gib: float) -> dict[str, Any]:
  """Reads a file of `np.savez`.

  Args:
    path: the file.
    most_gib: see `Budget`.

  Returns:
    Arrays by name, or `Unread`; half precision becomes float32. Untyped values
    of two bytes are bfloat16, as `np.savez` stores it.

  Raises:
    UsageError: the arrays would take too much memory.
    Exception: of any kind, for damaged files.
  """
  arrays = {}
  with open_zip(path, most_gib) as members:
    for name in members.namelist():
      is_array = name.endswith(".npy")
      short = name.removesuffix(".npy")
      if short in arrays:
        raise ValueError(f"it has two members named {short}")
      arrays[short] = _read_npy(members, name) if is_array else None
  return arrays


def _read_npy(members: zipfile.ZipFile, name: str) -> Any:
  size = members.getinfo(name).file_size
  with members.open(name) as file:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
      raise ValueError(f"{name} has version {version} of the format")
    shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
      raise ValueError(f"{name} holds Python objects")
    if file.tell() + math.prod(shape) * dtype.itemsize != size:
      raise ValueError(f"{name} is cut off, or its shape {shape} is wrong")
    content = file.read()
  if dtype == np.dtype("V2"):
    dtype = BFLOAT16
  elif dtype.kind == "V":
    return Unread("float8 or other untyped")
  flat = np.frombuffer(content, dtype)
  return to_float32(flat.reshape(shape, order="F" if is_fortran else "C"))
