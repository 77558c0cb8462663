"""Reads and writes PyTorch checkpoints; nothing in them is ever executed."""

from collections.abc import Mapping
import io
import os
import pathlib
import re
from typing import Any

import numpy as np

from essl_jax.convert import archive, pickles, pytorch
from essl_jax.convert.arrays import Unread, to_float32
from essl_jax.errors import UsageError
from essl_jax.storage import outputs, tensors, weights
from essl_jax.texts import first_line

_PICKLES = (".pth", ".pt", ".tar", ".bin", ".ckpt")
_SUFFIXES = (*_PICKLES, ".safetensors", ".npz")
MOST_GIB = 1.0
_HEADS = "num_heads"  # entry in the header of a safetensors file


def read(
  path: str | os.PathLike[str], *, most_gib: float = MOST_GIB
) -> dict[str, Any]:
  """Reads a checkpoint with its tensors as NumPy arrays.

  Files ending in `.pth`, `.pt`, `.pth.tar`, `.bin` and `.ckpt` must come from
  `torch.save`; PyTorch is not needed. Sizes are checked before memory is
  allocated.

  Args:
    path: the file.
    most_gib: memory in GiB that its tensors may take; eight times the size of
      the file is always allowed.

  Returns:
    The checkpoint's nested dictionaries, with half-precision tensors (also
    bfloat16) as float32, and `arrays.Unread` for tensors of other kinds, such
    as sparse and float8.

  Raises:
    UsageError: the file cannot be read, or holds more than data.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    raise UsageError(f"there is no file {path}")
  try:
    if file.suffix in _PICKLES:
      tree = pytorch.read(file, most_gib)
    elif file.suffix == ".safetensors":
      tree = _read_safetensors(file)
    elif file.suffix == ".npz":
      tree = archive.read_npz(file, most_gib)
    else:
      known = ", ".join(_SUFFIXES)
      raise UsageError(f"{path} has no known ending: give one of {known}")
  except (UsageError, MemoryError):
    raise
  except pickles.RefusedError as error:
    raise UsageError(
      f"{path} is refused: it asks for {first_line(error)}, but only tensors"
      " and plain containers are read (nothing in it was executed): save only"
      " the state dict"
    ) from error
  except Exception as error:  # damaged files can raise any error
    raise UsageError(
      f"cannot read {path}: {first_line(error)} (nothing in it was executed)"
    ) from error
  if not isinstance(tree, Mapping):
    raise UsageError(
      f"{path} holds a {type(tree).__name__} instead of named tensors: save"
      " the state dict of the network"
    )
  return dict(tree)


def _read_safetensors(path: pathlib.Path) -> dict[str, Any]:
  arrays, unread = tensors.read(path)
  found = {name: to_float32(array) for name, array in arrays.items()}
  return found | {name: Unread(dtype) for name, dtype in unread.items()}


def stated_heads(path: str | os.PathLike[str]) -> int | None:
  """Returns the number of attention heads in the header of an exported file.

  Args:
    path: a file of any kind.

  Returns:
    The number; None if the file has no such header.
  """
  if pathlib.Path(path).suffix != ".safetensors":
    return None
  stated = (tensors.read_header(path).get("__metadata__") or {}).get(_HEADS, "")
  return int(stated) if re.fullmatch("[0-9]{1,6}", stated) else None


def write_state_dict(
  path: str | os.PathLike[str],
  tensors: Mapping[str, np.ndarray],
  *,
  heads: int | None = None,
  overwrite: bool = False,
) -> None:
  """Writes arrays under PyTorch's names.

  Args:
    path: `*.safetensors`, or `*.pth` and `*.pt`, which need PyTorch.
    tensors: name to array.
    heads: number of attention heads, which is stored in the header of a
      `*.safetensors` file.
    overwrite: replaces an existing file.

  Raises:
    UsageError: the ending is unknown, PyTorch is missing, or the file exists
      or cannot be written.
  """
  suffix = pathlib.Path(path).suffix
  if suffix not in (".safetensors", ".pth", ".pt"):
    raise UsageError(
      f"{path} has no known ending: give .safetensors, .pth or .pt for PyTorch"
      " weights"
    )
  outputs.check_free(path, overwrite=overwrite)
  if suffix == ".safetensors":
    # PyTorch's own readers look for this entry.
    header = {"format": "pt"} | ({_HEADS: str(heads)} if heads else {})
    outputs.write(path, weights.to_bytes(tensors, header))
    return
  torch = _torch(path)
  buffer = io.BytesIO()
  torch.save(
    {
      name: torch.from_numpy(np.array(value, order="C"))
      for name, value in tensors.items()
    },
    buffer,
  )
  outputs.write(path, buffer.getvalue())


def _torch(path: Any) -> Any:
  try:
    import torch
  except ImportError as error:
    raise UsageError(
      f"{path} needs PyTorch: pip install 'essl-jax[torch]', or use"
      " .safetensors"
    ) from error
  return torch
