"""Reads the pickles of `torch.save`: storages and views of them."""

import dataclasses
import io
import re
from typing import Any

import numpy as np

from essl_jax.convert import pickles
from essl_jax.convert.arrays import BFLOAT16, Unread

MOST_ENTRIES = 200_000  # of all dictionaries; a ResNet-50 has 320

DTYPES = {
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
# Types of storages with another name.
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
# Bytes of a value, for types that are not read.
_ITEMSIZES = {"complex64": 8, "complex128": 16, "qint32": 4}
_STORAGE = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
_REBUILD = re.compile(
  r"torch\._utils\._rebuild_(\w+)|torch\._tensor\._rebuild_from_type_v2"
)
# Names that checkpoints contain besides tensors; calls of them are skipped.
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
class Storage:
  """The values that tensors are views of.

  Attributes:
    dtype: PyTorch's name for their type; `untyped` for bytes.
    key: identifies the storage.
    length: number of values.
  """

  dtype: str
  key: str
  length: int

  @property
  def itemsize(self) -> int:
    """Bytes of a value."""
    if self.dtype in DTYPES:
      return DTYPES[self.dtype].itemsize
    return _ITEMSIZES.get(self.dtype, 1)


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A view of a storage; offset and strides are numbers of values."""

  dtype: str
  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class Pickles:
  """The pickles of one file, one after the other."""

  def __init__(self, file: io.BytesIO):
    self._file = file
    self._copied = 0
    self.storages: dict[str, Storage] = {}

  def load(self) -> Any:
    """Reads the next pickle."""
    return pickles.load(self._file, self._name, self._call, self._persistent)

  def _name(self, name: str) -> pickles.Name:
    known = (_STORAGE, _REBUILD, _HARMLESS)
    if not any(pattern.fullmatch(name) for pattern in known):
      raise pickles.RefusedError(name)
    return pickles.Name(name)

  def _persistent(self, found: Any) -> Storage:
    kind, stored, key, _, length, *view = found
    match = _STORAGE.fullmatch(stored.name)
    if kind != "storage" or match is None or any(view):
      raise ValueError("a reference to something that is not a storage")
    if not isinstance(key, str) or not isinstance(length, int) or length < 0:
      raise ValueError("a storage without name or length")
    name = match[1].lower()
    storage = Storage(_TYPES.get(name, name), key, length)
    if self.storages.setdefault(key, storage) != storage:
      raise ValueError(f"storage {key} has two types or lengths")
    return storage

  def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
    if match := _REBUILD.fullmatch(name):
      return _rebuild(match[1], arguments)
    inner = name.rpartition(".")[2]
    if inner in ("OrderedDict", "defaultdict", "dict"):
      pairs = next((x for x in arguments if isinstance(x, list)), [])
      self._copied += len(pairs)
      if self._copied > MOST_ENTRIES:
        raise ValueError(f"more than {MOST_ENTRIES:,} entries")
      return pickles.to_dict(pairs)
    if inner in ("set", "list") and arguments:
      return arguments[0]
    return pickles.Inert(name)


def _rebuild(form: str | None, arguments: tuple[Any, ...]) -> Any:
  """Returns the value of a call of `torch._utils._rebuild_...`."""
  if form is None:  # a tensor with attributes, or of a subclass
    function, _, inner, _ = arguments
    match = _REBUILD.fullmatch(function.name)
    if match is None or match[1] is None:
      raise ValueError("a tensor of an unknown form")
    return _rebuild(match[1], inner)
  if form in ("parameter", "parameter_with_state"):
    return arguments[0]
  if form not in ("tensor", "tensor_v2", "tensor_v3"):
    kind = form.removesuffix("_no_storage").removesuffix("tensor").strip("_")
    return Unread({"q": "quantised"}.get(kind, kind.replace("_", " ")))
  storage, offset, shape, strides, *others = arguments
  dtype = storage.dtype
  if form == "tensor_v3":
    dtype = others.pop(2).name.removeprefix("torch.")
  if len(others) > 2 and others[2]:
    return Unread("conjugated or negated")
  if dtype not in DTYPES:
    return Unread(dtype)
  numbers = (offset, *shape, *strides)
  if len(shape) != len(strides) or not all(
    isinstance(x, int) and 0 <= x < 2**62 for x in numbers
  ):
    raise ValueError("a tensor of impossible shape")
  return Tensor(dtype, storage, offset, tuple(shape), tuple(strides))
