"""Reads files of `torch.save` without PyTorch; nothing is executed.

It reads both formats: the zip archive (PyTorch 1.6 and later), and pickles
followed by storages (older, and `_use_new_zipfile_serialization=False`).
"""

from collections.abc import Callable, Mapping
import io
import math
import pathlib
from typing import Any
import zipfile

import numpy as np

from essl_jax.convert import archive, torch_pickles
from essl_jax.convert.arrays import Budget, to_float32

MOST_PICKLED = 64 * 2**20  # bytes before the tensors; a ResNet-50 has 40,000
DEEPEST = 100  # levels of nested dictionaries
_MAGIC = 0x1950A86A20F9469CFC6C  # starts files from before PyTorch 1.6
_VERSION = 1001


def read(path: pathlib.Path, most_gib: float) -> Any:
  """Reads a file of `torch.save`.

  Args:
    path: the file.
    most_gib: see `Budget`.

  Returns:
    Nested dictionaries with arrays, or `Unread`, for tensors; half precision
    becomes float32.

  Raises:
    UsageError: the tensors would take too much memory.
    RefusedError: it asks for more than tensors and plain containers.
    Exception: of any kind, for damaged files.
  """
  with path.open("rb") as file:
    is_zip = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    if not is_zip:
      return _read_legacy(file, Budget(path, most_gib))
  with archive.open_zip(path, most_gib) as members:
    return _read_zip(members, Budget(path, most_gib))


def _read_zip(members: zipfile.ZipFile, budget: Budget) -> Any:
  names = members.namelist()
  pickled = [name for name in names if name.endswith("/data.pkl")]
  if len(pickled) != 1:
    raise ValueError("it is a zip archive without one data.pkl")
  root = pickled[0].removesuffix("data.pkl")
  if members.getinfo(pickled[0]).file_size > MOST_PICKLED:
    raise ValueError(f"its data.pkl has more than {MOST_PICKLED:,} bytes")
  order = "<"
  if f"{root}byteorder" in names:
    order = {b"little": "<", b"big": ">"}[members.read(f"{root}byteorder")]

  def content(storage: torch_pickles.Storage) -> bytes:
    return members.read(f"{root}data/{storage.key}")

  tree = torch_pickles.Pickles(io.BytesIO(members.read(pickled[0]))).load()
  return _Arrays(content, order, budget).convert(tree)


def _read_legacy(file: Any, budget: Budget) -> Any:
  end = file.seek(0, io.SEEK_END)
  file.seek(0)
  begin = io.BytesIO(file.read(MOST_PICKLED))
  pickled = torch_pickles.Pickles(begin)
  if (pickled.load(), pickled.load()) != (_MAGIC, _VERSION):
    raise ValueError("it does not begin like a PyTorch file")
  is_little = pickled.load()["little_endian"]
  tree, keys = pickled.load(), pickled.load()
  file.seek(begin.tell())
  places = {}
  for key in keys:
    storage = pickled.storages[key]
    length = int.from_bytes(file.read(8), "little" if is_little else "big")
    if length != storage.length:
      raise ValueError(f"storage {key} has the wrong length")
    places[key] = file.tell()
    if file.seek(length * storage.itemsize, io.SEEK_CUR) > end:
      raise ValueError(f"storage {key} is cut off")

  def content(storage: torch_pickles.Storage) -> bytes:
    file.seek(places[storage.key])
    return file.read(storage.length * storage.itemsize)

  return _Arrays(content, "<" if is_little else ">", budget).convert(tree)


class _Arrays:
  """Converts the tensors that a pickle describes to arrays.

  Args:
    content: reads the bytes of a storage.
    order: byte order of values, `<` or `>`.
    budget: for memory.
  """

  def __init__(
    self,
    content: Callable[[torch_pickles.Storage], bytes],
    order: str,
    budget: Budget,
  ):
    self._content, self._order, self._budget = content, order, budget
    self._contents: dict[str, bytes] = {}
    self._entries = 0

  def convert(self, tree: Any, depth: int = 0) -> Any:
    """Returns the same nested dictionaries with arrays for tensors."""
    self._entries += 1
    if self._entries > torch_pickles.MOST_ENTRIES:
      raise ValueError(f"more than {torch_pickles.MOST_ENTRIES:,} entries")
    if depth > DEEPEST:
      raise ValueError(
        f"dictionaries nested more than {DEEPEST} deep or in themselves"
      )
    if isinstance(tree, Mapping):
      return {k: self.convert(x, depth + 1) for k, x in tree.items()}
    return self._array(tree) if isinstance(tree, torch_pickles.Tensor) else tree

  def _array(self, tensor: torch_pickles.Tensor) -> np.ndarray:
    storage, dtype = tensor.storage, torch_pickles.DTYPES[tensor.dtype]
    size = math.prod(tensor.shape)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((n - 1) * step for n, step in steps)
    if size and (last + 1) * dtype.itemsize > storage.length * storage.itemsize:
      raise ValueError("a tensor is larger than its storage")
    self._budget.take(size * max(dtype.itemsize, 4))
    if storage.key not in self._contents:
      self._contents[storage.key] = self._content(storage)
    content = self._contents[storage.key]
    if len(content) < storage.length * storage.itemsize:
      raise ValueError(f"storage {storage.key} is cut off")
    if not size:
      return np.zeros(tensor.shape, np.float32)
    whole = np.frombuffer(content, dtype, len(content) // dtype.itemsize)
    if self._order == ">":
      unsigned = whole.view(f">u{dtype.itemsize}")
      whole = unsigned.astype(f"<u{dtype.itemsize}").view(dtype)
    view = np.lib.stride_tricks.as_strided(
      whole[tensor.offset :],
      tensor.shape,
      [step * dtype.itemsize for step in tensor.strides],
      writeable=False,
    )
    return to_float32(view)
