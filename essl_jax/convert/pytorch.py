"""Files of `torch.save` as arrays, without PyTorch; nothing is executed.

Both forms: the zip archive (PyTorch 1.6 and later), and the pickles with the
storages behind them (before, and `_use_new_zipfile_serialization=False`).
"""

from collections.abc import Callable, Mapping
import dataclasses
import io
import math
import pathlib
import re
from typing import Any
import zipfile

import numpy as np

from essl_jax.convert import archive, pickles
from essl_jax.convert.arrays import BFLOAT16, Budget, Unread, to_float32

MOST_PICKLED = 64 * 2**20  # bytes before the tensors; a ResNet-50 has 40,000
MOST_ENTRIES = 1_000_000
DEEPEST = 100  # dictionaries within each other
_MAGIC = 0x1950A86A20F9469CFC6C  # first in files before PyTorch 1.6
_VERSION = 1001

_DTYPES = {
  "float64": np.dtype("<f8"),
  "float32": np.dtype("<f4"),
  "float16": np.dtype("<f2"),
  "bfloat16": BFLOAT16,
  "int64": np.dtype("<i8"),
  "int32": np.dtype("<i4"),
  "int16": np.dtype("<i2"),
  "int8": np.dtype("i1"),
  "uint64": np.dtype("<u8"),
  "uint32": np.dtype("<u4"),
  "uint16": np.dtype("<u2"),
  "uint8": np.dtype("u1"),
  "bool": np.dtype("?"),
}
# Storages that are not named after their type.
_TYPES = {
  "double": "float64",
  "float": "float32",
  "half": "float16",
  "long": "int64",
  "int": "int32",
  "short": "int16",
  "char": "int8",
  "byte": "uint8",
  "complexfloat": "complex64",
  "complexdouble": "complex128",
}
# Bytes of a value, of types that are not read.
_ITEMSIZES = {"complex64": 8, "complex128": 16, "qint32": 4}
_STORAGE = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
_REBUILD = re.compile(
  r"torch\._utils\._rebuild_(\w+)|torch\._tensor\._rebuild_from_type_v2"
)
# What checkpoints contain beside tensors; calls of it are left out.
_HARMLESS = re.compile(
  r"torch\.(Size|Tensor|device|q?u?int\w+|b?float\w+|complex\w+|bool"
  r"|strided|sparse_\w+|jagged|per_(tensor|channel)_\w+"
  r"|nn\.parameter\.(Parameter|Buffer)|serialization\._get_layout)"
  r"|(collections\.(OrderedDict|Counter|defaultdict)|argparse\.Namespace"
  r"|(builtins|__builtin__)\.(set|frozenset|complex|bytearray|list|dict|int)"
  r"|_codecs\.encode|numpy\.(dtype|_?core\.multiarray\.scalar))"
  # Barlow Twins and E-SimCLR store this function among LARS's settings.
  r"|(__main__|__mp_main__)\.exclude_bias_and_norm"
)


@dataclasses.dataclass(frozen=True)
class _Storage:
  """The values that tensors are views of.

  Attributes:
    dtype: PyTorch's name for their type; `untyped` for bytes.
    key: which one it is.
    length: how many values it has.
  """

  dtype: str
  key: str
  length: int

  @property
  def itemsize(self) -> int:
    if self.dtype in _DTYPES:
      return _DTYPES[self.dtype].itemsize
    return _ITEMSIZES.get(self.dtype, 1)


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A view of a storage; offset and strides are numbers of values."""

  dtype: str
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def read(path: pathlib.Path, most_gib: float) -> Any:
  """Reads what `torch.save` wrote.

  Args:
    path: the file.
    most_gib: see `Budget`.

  Returns:
    Nested dictionaries with arrays, or `Unread`, for tensors; half precision
    becomes float32.

  Raises:
    UsageError: the tensors would take too much memory.
    RefusedError: it asks for anything but tensors and plain containers.
    Exception: anything else; broken bytes lead a reader anywhere.
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

  def content(storage: _Storage) -> bytes:
    return members.read(f"{root}data/{storage.key}")

  tree = _Pickles(io.BytesIO(members.read(pickled[0]))).load()
  return _Arrays(content, order, budget).convert(tree)


def _read_legacy(file: Any, budget: Budget) -> Any:
  begin = io.BytesIO(file.read(MOST_PICKLED))
  pickled = _Pickles(begin)
  if (pickled.load(), pickled.load()) != (_MAGIC, _VERSION):
    raise ValueError("it does not begin as PyTorch's files do")
  is_little = pickled.load()["little_endian"]
  tree, keys = pickled.load(), pickled.load()
  file.seek(begin.tell())
  places = {}
  for key in keys:
    storage = pickled.storages[key]
    length = int.from_bytes(file.read(8), "little" if is_little else "big")
    if length != storage.length:
      raise ValueError(f"storage {key} has another length than it should")
    places[key] = file.tell()
    file.seek(length * storage.itemsize, io.SEEK_CUR)

  def content(storage: _Storage) -> bytes:
    file.seek(places[storage.key])
    return file.read(storage.length * storage.itemsize)

  return _Arrays(content, "<" if is_little else ">", budget).convert(tree)


class _Pickles:
  """The pickles of one file, one after the other."""

  def __init__(self, file: io.BytesIO):
    self._file = file
    self._copied = 0
    self.storages: dict[str, _Storage] = {}

  def load(self) -> Any:
    """Reads the next one."""
    return pickles.load(self._file, self._name, self._call, self._persistent)

  def _name(self, name: str) -> pickles.Name:
    known = (_STORAGE, _REBUILD, _HARMLESS)
    if not any(pattern.fullmatch(name) for pattern in known):
      raise pickles.RefusedError(name)
    return pickles.Name(name)

  def _persistent(self, found: Any) -> _Storage:
    kind, stored, key, _, length, *view = found
    match = _STORAGE.fullmatch(stored.name)
    if kind != "storage" or match is None or any(view):
      raise ValueError("a reference to something that is no storage")
    if not isinstance(key, str) or not isinstance(length, int) or length < 0:
      raise ValueError("a storage without name or length")
    name = match[1].lower()
    storage = _Storage(_TYPES.get(name, name), key, length)
    return self.storages.setdefault(key, storage)

  def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
    if match := _REBUILD.fullmatch(name):
      return _rebuild(match[1], arguments)
    inner = name.rpartition(".")[2]
    if inner in ("OrderedDict", "dict") and not any(arguments):
      return {}
    if inner == "OrderedDict" and isinstance(arguments[0], list):
      self._copied += len(arguments[0])
      if self._copied > MOST_ENTRIES:
        raise ValueError(f"more than {MOST_ENTRIES:,} entries")
      return pickles.to_dict(arguments[0])
    if inner in ("set", "list") and arguments:
      return arguments[0]
    return pickles.Inert(name)


def _rebuild(form: str | None, arguments: tuple[Any, ...]) -> Any:
  """What a call of `torch._utils._rebuild_...` stands for."""
  if form is None:  # a tensor with attributes, or of a subclass
    function, _, inner, _ = arguments
    match = _REBUILD.fullmatch(function.name)
    if match is None or match[1] is None:
      raise ValueError("a tensor of an unknown form")
    return _rebuild(match[1], inner)
  if form in ("parameter", "parameter_with_state"):
    return arguments[0]
  if form not in ("tensor", "tensor_v2", "tensor_v3"):
    return Unread(form.removesuffix("_no_storage").replace("_", " "))
  storage, offset, shape, strides, *others = arguments
  dtype = storage.dtype
  if form == "tensor_v3":
    dtype = others.pop(2).name.removeprefix("torch.")
  if len(others) > 2 and others[2]:
    return Unread("with attributes of PyTorch")
  if dtype not in _DTYPES:
    return Unread(dtype)
  numbers = (offset, *shape, *strides)
  if len(shape) != len(strides) or not all(
    isinstance(x, int) and 0 <= x < 2**62 for x in numbers
  ):
    raise ValueError("a tensor of impossible shape")
  return _Tensor(dtype, storage, offset, tuple(shape), tuple(strides))


class _Arrays:
  """Turns what a pickle describes into arrays.

  Args:
    content: reads the bytes of a storage.
    order: of the bytes of a value, `<` or `>`.
    budget: of the memory.
  """

  def __init__(
    self, content: Callable[[_Storage], bytes], order: str, budget: Budget
  ):
    self._content, self._order, self._budget = content, order, budget
    self._contents: dict[str, bytes] = {}
    self._entries = 0

  def convert(self, tree: Any, depth: int = 0) -> Any:
    """The same nested dictionaries with arrays for tensors."""
    self._entries += 1
    if self._entries > MOST_ENTRIES:
      raise ValueError(f"more than {MOST_ENTRIES:,} entries")
    if depth > DEEPEST:
      raise ValueError(
        f"dictionaries more than {DEEPEST} deep or within themselves"
      )
    if isinstance(tree, Mapping):
      return {k: self.convert(x, depth + 1) for k, x in tree.items()}
    return self._array(tree) if isinstance(tree, _Tensor) else tree

  def _array(self, tensor: _Tensor) -> np.ndarray:
    storage, dtype = tensor.storage, _DTYPES[tensor.dtype]
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
