"""Digests, which show whether arrays read back are those that were saved."""

from collections.abc import Mapping
import hashlib
import json
from typing import Any

import jax
import numpy as np


def form(array: Any) -> str:
  """Returns an array's dtype and shape, such as `float32(3,3,3,64)`."""
  return f"{array.dtype}({','.join(map(str, array.shape))})"


def of(array: Any) -> str:
  """Returns an array's form and the SHA-256 of its bytes.

  Args:
    array: a NumPy or JAX array, whole in this process.
  """
  # As plain bytes: hashlib does not accept bfloat16.
  flat = np.ascontiguousarray(_here(array)).reshape(-1).view(np.uint8)
  return f"{form(array)} {hashlib.sha256(flat.data).hexdigest()}"


def of_all(arrays: Mapping[str, Any]) -> str:
  """Returns one digest of named arrays, whatever their order."""
  lines = [f"{name} {of(array)}\n" for name, array in sorted(arrays.items())]
  return hashlib.sha256("".join(lines).encode()).hexdigest()


def of_json(content: Any) -> str:
  """Returns the SHA-256 of JSON content; reading it back keeps the digest."""
  text = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def copies(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
  """Copies arrays to the host, so that the originals may be donated.

  Args:
    arrays: by name.

  Returns:
    NumPy arrays, without those that this process holds only in part.
  """
  mine = {name: _here(x) for name, x in arrays.items() if is_here(x)}
  for array in mine.values():
    array.copy_to_host_async()
  return {name: np.array(array, copy=True) for name, array in mine.items()}


def is_here(array: jax.Array) -> bool:
  """Whether this process has the whole array."""
  return array.is_fully_replicated or array.is_fully_addressable


def _here(array: Any) -> Any:
  """Returns one copy of an array that other processes may hold too."""
  if isinstance(array, jax.Array) and array.is_fully_replicated:
    return array.addressable_data(0)
  return array
