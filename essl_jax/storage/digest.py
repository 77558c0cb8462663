"""Digests, by which it is seen that what is read is what was saved."""

from collections.abc import Mapping
import hashlib
import json
from typing import Any

import jax
import numpy as np


def form(array: Any) -> str:
  """An array's dtype and shape, such as `float32(3,3,3,64)`."""
  return f"{array.dtype}({','.join(map(str, array.shape))})"


def of(array: Any) -> str:
  """An array's form and the SHA-256 of its bytes.

  Args:
    array: of NumPy or JAX, whole in this process.
  """
  # As plain bytes: hashlib knows no bfloat16.
  flat = np.ascontiguousarray(_here(array)).reshape(-1).view(np.uint8)
  return f"{form(array)} {hashlib.sha256(flat.data).hexdigest()}"


def of_all(arrays: Mapping[str, Any]) -> str:
  """One digest of arrays and their names, in any order."""
  lines = [f"{name} {of(array)}\n" for name, array in sorted(arrays.items())]
  return hashlib.sha256("".join(lines).encode()).hexdigest()


def of_json(content: Any) -> str:
  """The SHA-256 of what JSON can hold, the same after it was read again."""
  text = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def copies(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
  """Copies arrays to the host, so that they may be donated.

  Args:
    arrays: by name.

  Returns:
    NumPy arrays, without those of which this process has only a part.
  """
  mine = {name: _here(x) for name, x in arrays.items() if is_here(x)}
  for array in mine.values():
    array.copy_to_host_async()
  return {name: np.array(array, copy=True) for name, array in mine.items()}


def is_here(array: jax.Array) -> bool:
  """Whether this process has the whole array."""
  return array.is_fully_replicated or array.is_fully_addressable


def _here(array: Any) -> Any:
  """One copy of an array that may lie on devices of other processes too."""
  if isinstance(array, jax.Array) and array.is_fully_replicated:
    return array.addressable_data(0)
  return array
