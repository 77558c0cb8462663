"""Represents tensors of checkpoints: arrays, and tensors that are not read."""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from essl_jax.errors import UsageError

BFLOAT16 = np.dtype(jnp.bfloat16)
GIB = 2**30
# Half precision becomes float32, and several names may share a tensor.
_GROWTH = 8


@dataclasses.dataclass(frozen=True)
class Unread:
  """A tensor whose values are not read.

  Attributes:
    kind: its kind: `float8_e4m3fn`, `sparse`, ...
  """

  kind: str


def to_float32(array: np.ndarray) -> np.ndarray:
  """Converts half precision to float32, which is exact; other types stay."""
  is_half = array.dtype == BFLOAT16 or array.dtype.kind == "f"
  return array.astype(np.float32) if is_half and array.itemsize == 2 else array


def as_float32(value: Any) -> np.ndarray:
  """Converts weights to float32; values out of range become infinite."""
  with np.errstate(over="ignore"):
    return np.asarray(value, np.float32)


class Budget:
  """Limits the memory that the tensors of one file may take.

  Args:
    path: the file. Its tensors may take eight times its size.
    most_gib: the limit in GiB if that is larger.
  """

  def __init__(self, path: pathlib.Path, most_gib: float):
    self._path = path
    self._most = max(most_gib * GIB, _GROWTH * path.stat().st_size)
    self._left = self._most

  def take(self, size: int) -> None:
    """Counts bytes before allocation; raises UsageError if too many."""
    self._left -= size
    if self._left < 0:
      raise UsageError(
        f"{self._path} declares tensors of more than"
        f" {self._most / GIB:.3g} GiB: if you trust the file, raise it by"
        " --most-gib=N"
      )
