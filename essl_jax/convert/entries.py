"""Sorts the entries of a checkpoint, by names without those of wrappers."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from essl_jax.convert import forms
from essl_jax.convert import names as names_lib
from essl_jax.convert.arrays import Unread
from essl_jax.convert.torch_names import COUNTER
from essl_jax.errors import UsageError
from essl_jax.texts import printable

_LONGEST = 500  # characters of a name


class Entries:
  """All entries of a checkpoint: tensors, and others with a reason.

  Args:
    tree: nested dictionaries of NumPy arrays, `arrays.Unread` and other things.

  Attributes:
    tensors: by short name.
    originals: maps short names to the checkpoint's.
    left_out: the checkpoint's other names, with the reason.

  Raises:
    UsageError: two names mean the same, or one is too long.
  """

  def __init__(self, tree: Mapping[str, Any]):
    self.tensors: dict[str, Any] = {}
    self.originals: dict[str, str] = {}
    self.left_out: dict[str, str] = {}
    for name, value in _flat(tree):
      if len(name) > _LONGEST:
        raise UsageError(f"a name in it has {len(name):,} characters")
      self._sort(printable(name), value)

  def _sort(self, name: str, value: Any) -> None:
    """Adds a tensor under its short name, or leaves an entry out."""
    first = name.split(".")[0]
    if name in self.left_out:
      raise UsageError(f"two entries in it are named {name}: drop one")
    if forms.REASONS.get(first) == "optimiser state":
      self.left_out[name] = forms.REASONS[first]
    elif not _is_tensor(value):
      self.left_out[name] = "not a tensor"
    elif name.split(".")[-1] == COUNTER:
      self.left_out[name] = "batch counter, which Flax does not have"
    else:
      short = names_lib.short(name)
      if short in self.tensors:
        other = self.originals[short]
        raise UsageError(f"{name} and {other} mean the same tensor: drop one")
      self.originals[short], self.tensors[short] = name, value

  def unreadable(self, names: Mapping[str, str]) -> str:
    """Names the first tensor that is not floating-point; empty if all are."""
    for name in names.values():
      value = self.tensors[name]
      kind = value.kind if isinstance(value, Unread) else value.dtype.name
      if isinstance(value, Unread) or value.dtype.kind != "f":
        return (
          f"{self.originals[name]} is a {kind} tensor, but weights must be"
          " dense tensors of float64, float32, float16 or bfloat16"
        )
    return ""

  def values(self, names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the tensors of some short names, by their names in a network."""
    return {inner: self.tensors[name] for inner, name in names.items()}


def _flat(
  tree: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yields dotted names and values; an empty dictionary stays a value."""
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      yield from _flat(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def _is_tensor(value: Any) -> bool:
  is_array = isinstance(value, np.ndarray) and value.dtype.kind in "fiubc"
  return is_array or isinstance(value, Unread)
