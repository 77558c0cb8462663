"""Checkpoints of PyTorch on disk; nothing in them is ever executed."""

from collections.abc import Mapping
import io
import os
import pathlib
import pickle
import re
from typing import Any
import zipfile

import numpy as np
import safetensors
import safetensors.numpy

from essl_jax.errors import UsageError
from essl_jax.storage import weights
from essl_jax.texts import first_line

_PICKLES = (".pth", ".pt", ".tar", ".bin", ".ckpt")
_SUFFIXES = (*_PICKLES, ".safetensors", ".npz")


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads a checkpoint with its tensors as NumPy arrays.

  `.pth`, `.pt`, `.pth.tar`, `.bin` and `.ckpt` need PyTorch, whose
  `weights_only` reader builds tensors and plain containers and refuses any
  other object before it is made. `.safetensors` and `.npz` do not need it.

  Args:
    path: the file.

  Returns:
    The checkpoint's nested dictionaries; half-precision tensors as float32.

  Raises:
    UsageError: the file cannot be read, or holds more than data.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    raise UsageError(f"there is no file {path}")
  if file.suffix in _PICKLES:
    tree = _read_pickle(file)
  elif file.suffix == ".safetensors":
    try:
      tree = safetensors.numpy.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
      raise UsageError(f"cannot read {path}: {first_line(error)}") from error
  elif file.suffix == ".npz":
    try:
      with np.load(file, allow_pickle=False) as arrays:
        tree = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
      raise UsageError(
        f"cannot read {path}: {first_line(error)} (nothing in it was executed)"
      ) from error
  else:
    known = ", ".join(_SUFFIXES)
    raise UsageError(f"{path} has no known ending; there are: {known}")
  if not isinstance(tree, Mapping):
    raise UsageError(
      f"{path} holds a {type(tree).__name__} instead of named tensors: save"
      " the state dict of the network"
    )
  return dict(tree)


def write_state_dict(
  path: str | os.PathLike[str],
  tensors: Mapping[str, np.ndarray],
  *,
  overwrite: bool = False,
) -> None:
  """Writes arrays under PyTorch's names.

  Args:
    path: `*.safetensors`, or `*.pth` and `*.pt`, which need PyTorch.
    tensors: name to array.
    overwrite: replaces a file that is there.

  Raises:
    UsageError: the ending is another one, PyTorch is missing, or the file is
      there or cannot be written.
  """
  suffix = pathlib.Path(path).suffix
  if suffix not in (".safetensors", ".pth", ".pt"):
    raise UsageError(
      f"{path} has no known ending; PyTorch weights are written to"
      " .safetensors, .pth and .pt"
    )
  weights.check_free(path, overwrite=overwrite)
  if suffix == ".safetensors":
    # The entry that PyTorch's own readers look for.
    weights.write(path, weights.to_bytes(tensors, {"format": "pt"}))
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
  weights.write(path, buffer.getvalue())


def _torch(path: Any) -> Any:
  try:
    import torch
  except ImportError as error:
    raise UsageError(
      f"{path} needs PyTorch: pip install 'essl-jax[torch]', or use"
      " .safetensors"
    ) from error
  return torch


def _read_pickle(path: pathlib.Path) -> Any:
  torch = _torch(path)
  # Barlow Twins and E-SimCLR store this function among LARS's settings.
  stand_ins = [
    (_unused, f"{module}.exclude_bias_and_norm")
    for module in ("__main__", "__mp_main__")
  ]
  try:
    with torch.serialization.safe_globals(stand_ins):
      tree = torch.load(path, map_location="cpu", weights_only=True)
  except pickle.UnpicklingError as error:
    found = re.search(r"GLOBAL (\S+)", str(error))
    what = found[1] if found else "objects other than tensors"
    raise UsageError(
      f"{path} is refused: it asks for {what}, and only tensors and plain"
      " containers are read (nothing in it was executed); save the state dict"
      " alone"
    ) from error
  except Exception as error:  # broken bytes lead an unpickler anywhere
    raise UsageError(
      f"cannot read {path} as a PyTorch checkpoint: {first_line(error)}"
    ) from error
  return _to_numpy(tree, torch)


def _unused(*arguments: Any) -> None:
  """Stands in for functions that a checkpoint names; nothing calls them."""
  del arguments


def _to_numpy(tree: Any, torch: Any) -> Any:
  """The same nested dictionaries with NumPy arrays for tensors."""
  if isinstance(tree, Mapping):
    return {key: _to_numpy(value, torch) for key, value in tree.items()}
  if not isinstance(tree, torch.Tensor):
    return tree
  tensor = tree.detach()
  return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
