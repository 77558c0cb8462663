"""Builds dataclasses from nested mappings and says what does not fit."""

from collections.abc import Iterable, Mapping
import dataclasses
import difflib
import types
import typing
from typing import Any

from essl_jax.errors import UsageError


def build(kind: type, raw: Any, path: str = "") -> Any:
  """Makes a dataclass, and those within it, from a nested mapping.

  Args:
    kind: a dataclass.
    raw: values by field name; lists become tuples, integers floats, as asked.
    path: dotted name of the whole, for messages.

  Returns:
    The instance.

  Raises:
    UsageError: an unknown, missing or ill-typed field, in one line.
  """
  if not isinstance(raw, Mapping):
    raise UsageError(f"config.{path} must hold fields, got {raw!r}")
  prefix = f"{path}." if path else ""
  known = {field.name: field for field in dataclasses.fields(kind)}
  hints = typing.get_type_hints(kind)
  values = {}
  for name, value in raw.items():
    where = f"{prefix}{name}"
    if name not in known:
      raise UsageError(unknown(where, known))
    if dataclasses.is_dataclass(hints[name]):
      values[name] = build(hints[name], value, where)
    else:
      values[name] = _coerce(hints[name], value, where)
  for name, field in known.items():
    if name not in values and field.default is dataclasses.MISSING:
      raise UsageError(f"config.{prefix}{name} is missing")
  try:
    return kind(**values)
  except ValueError as error:
    raise UsageError(f"config.{path}: {error}") from error


def unknown(name: str, known: Iterable[str]) -> str:
  """The line that says which field does not exist and which do."""
  known = sorted(known)
  close = difflib.get_close_matches(name.rpartition(".")[2], known, 1)
  hint = f" (did you mean {close[0]}?)" if close else ""
  there = ", ".join(known)
  return f"there is no field config.{name}{hint}; there are: {there}"


def find(kind: type, name: str) -> str | None:
  """What is wrong with a dotted name of a value of `kind`; None if nothing."""
  path = ""
  for part in name.split("."):
    if not dataclasses.is_dataclass(kind):
      return f"config.{path} has no fields, so config.{name} does not exist"
    hints = typing.get_type_hints(kind)
    path = f"{path}.{part}" if path else part
    if part not in hints:
      return unknown(path, hints)
    kind = hints[part]
  if dataclasses.is_dataclass(kind):
    there = ", ".join(f"config.{path}.{x}" for x in typing.get_type_hints(kind))
    return f"config.{path} is a group of fields: set one of {there}"
  return None


def _coerce(hint: Any, value: Any, where: str) -> Any:
  """Checks `value` against a simple type hint; lists become tuples."""
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    if value is None and type(None) in typing.get_args(hint):
      return None
    hints = [h for h in typing.get_args(hint) if h is not type(None)]
    # Of a value or a tuple of them, what is no sequence is the value.
    is_tuple = isinstance(value, (list, tuple))
    fitting = [h for h in hints if (typing.get_origin(h) is tuple) == is_tuple]
    hint = (fitting or hints)[0]
  if typing.get_origin(hint) is tuple:
    if not isinstance(value, (list, tuple)):
      raise UsageError(f"config.{where} must be a tuple, got {value!r}")
    kind = typing.get_args(hint)[0]
    return tuple(_coerce(kind, item, where) for item in value)
  is_bool = isinstance(value, bool)
  if hint is float and isinstance(value, int) and not is_bool:
    return float(value)
  if not isinstance(value, hint) or is_bool != (hint is bool):
    raise UsageError(f"config.{where} must be {hint.__name__}, got {value!r}")
  return value
