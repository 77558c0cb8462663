"""Reads `*.safetensors` files, checked before memory is allocated."""

from collections.abc import Collection
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from essl_jax.errors import UsageError
from essl_jax.texts import first_line

_DTYPES = {
  "F64": np.dtype("<f8"),
  "F32": np.dtype("<f4"),
  "F16": np.dtype("<f2"),
  "BF16": np.dtype(jnp.bfloat16),
  "I64": np.dtype("<i8"),
  "I32": np.dtype("<i4"),
  "I16": np.dtype("<i2"),
  "I8": np.dtype("i1"),
  "U64": np.dtype("<u8"),
  "U32": np.dtype("<u4"),
  "U16": np.dtype("<u2"),
  "U8": np.dtype("u1"),
  "BOOL": np.dtype("?"),
}

_DEEPEST = 99  # levels of nested modules


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads a file's header: its tensors, and its `__metadata__` if present.

  Args:
    path: the file.

  Returns:
    The header. Its tensors have a `dtype`, a `shape` and `data_offsets`, which
    cover the rest of the file without gaps.

  Raises:
    UsageError: the file is missing, or not a complete safetensors file.
  """
  if not os.path.isfile(path):  # opening a pipe would block
    raise UsageError(f"cannot read {path}: there is no such file")
  try:
    with safetensors.safe_open(os.fspath(path), framework="numpy"):
      pass  # it compares the header with the length of the file
    with pathlib.Path(path).open("rb") as file:
      length = int.from_bytes(file.read(8), "little")
      return json.loads(file.read(length))
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise UsageError(
      f"cannot read {path} as safetensors: {first_line(error)}: copy or write"
      " it again"
    ) from error


def read(
  path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads the tensors of a file, bit for bit.

  Args:
    path: the file.

  Returns:
    Arrays by name, and, for tensors whose type NumPy lacks, the format's name
    of the type, such as `F8_E4M3`.

  Raises:
    UsageError: as for `read_header`.
  """
  header = read_header(path)
  header.pop("__metadata__", None)
  arrays, unread = {}, {}
  with pathlib.Path(path).open("rb") as file:
    begin = 8 + int.from_bytes(file.read(8), "little")
    for name, about in header.items():
      start, end = about["data_offsets"]
      if (dtype := _DTYPES.get(about["dtype"])) is None:
        unread[name] = about["dtype"]
        continue
      file.seek(begin + start)
      content = np.fromfile(file, np.uint8, end - start)
      try:
        arrays[name] = content.view(dtype).reshape(about["shape"])
      except ValueError as error:
        raise UsageError(
          f"cannot read {name!r} in {path}: {first_line(error)}"
        ) from error
  return arrays, unread


def misnamed(names: Collection[str]) -> list[str]:
  """Finds names that do not form a tree of networks.

  Args:
    names: of all arrays of a file of Flax weights.

  Returns:
    The names that are not `collection/network/.../leaf`; if all are, those that
    are also a folder of another name.
  """
  wrong = [name for name in names if not 2 <= name.count("/") < _DEEPEST]
  if wrong:
    return wrong
  paths = [name.split("/") for name in names]
  folders = {"/".join(x[:i]) for x in paths for i in range(1, len(x))}
  return [name for name in names if name in folders]
