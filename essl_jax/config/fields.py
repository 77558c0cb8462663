"""Typed fields: their bounds, their help, and building them from plain data.

A field's type says which values are allowed: `Literal` lists choices,
`Annotated[float, Above(0)]` bounds numbers, dataclasses are groups of fields.
Its help is its entry under `Attributes:` in the docstring of its class. Numbers
are finite. The parts of a config (`config.parts`) are classes or functions;
their parameters of such types are fields too.
"""

from collections.abc import Collection, Iterable, Mapping
import dataclasses
import difflib
import functools
import inspect
import re
import types
import typing
from typing import Annotated, Any, Literal, cast

from essl_jax.config import values as values_lib
from essl_jax.errors import UsageError, told

_NONE = type(None)
# Attributes of a Flax module that are no fields: its own, and those that the
# program sets.
_RESERVED = ("parent", "name", "dtype", "axis_name")


@dataclasses.dataclass(frozen=True)
class Field:
  """One field.

  Attributes:
    name: its name.
    hint: its type, with bounds and choices.
    default: `dataclasses.MISSING` if it must be set.
    help: what it does; the first sentence is complete by itself.
  """

  name: str
  hint: Any
  default: Any
  help: str = ""


def of(part: Any) -> dict[str, Field]:
  """The fields of a dataclass, a Flax module or a function, by name.

  A parameter is a field if it is plain data: numbers, strings, tuples of them
  and dataclasses. Others, such as a module's functions, keep their defaults.

  Args:
    part: a dataclass or a Flax module, whose fields are its attributes, or a
      function, whose fields are its keyword-only parameters.

  Returns:
    The fields in order.
  """
  return _of(part)


@functools.cache
def _of(part: Any) -> dict[str, Field]:
  is_class = isinstance(part, type)
  where = getattr(part, "__name__", str(part))
  with told(f"the types of {where}"):
    hints = typing.get_type_hints(part, include_extras=True)
  helps = _attributes(part)
  if dataclasses.is_dataclass(part):  # help of fields taken from other parts
    texts = {x.name: x.metadata.get("help") for x in dataclasses.fields(part)}
    helps = {name: text for name, text in texts.items() if text} | helps
  found = {}
  for name, default in _defaults(part):
    if name in hints and _is_plain(hints[name]):
      found[name] = Field(name, hints[name], default, helps.get(name, ""))
    elif default is dataclasses.MISSING and not is_class:
      raise UsageError(
        f"{where}: the parameter {name} needs a type that a config can hold, or"
        " a default"
      )
  return found


def _defaults(part: Any) -> Iterable[tuple[str, Any]]:
  if dataclasses.is_dataclass(part):
    own = {field.name: field for field in dataclasses.fields(part)}
    reserved = _RESERVED if "parent" in own else ()
    for field in own.values():
      if field.init and field.name not in reserved:
        made: Any = field.default_factory
        is_made = made is not dataclasses.MISSING
        yield field.name, made() if is_made else field.default
    return
  for name, parameter in inspect.signature(part).parameters.items():
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
      is_set = parameter.default is not inspect.Parameter.empty
      yield name, parameter.default if is_set else dataclasses.MISSING


def _is_plain(hint: Any) -> bool:
  """Whether a config can hold values of a type."""
  origin = typing.get_origin(hint)
  if origin is Annotated:
    return _is_plain(typing.get_args(hint)[0])
  if origin is Literal:
    return True
  if origin in (types.UnionType, typing.Union, tuple):
    inner = [x for x in typing.get_args(hint) if x is not Ellipsis]
    return all(_is_plain(x) for x in inner)
  is_group = dataclasses.is_dataclass(hint)
  return hint in (bool, int, float, str, type(None)) or is_group


def _attributes(part: Any) -> dict[str, str]:
  """The help of each field, from the docstrings of a class and its bases."""
  kinds = reversed(part.__mro__) if isinstance(part, type) else [part]
  found: dict[str, str] = {}
  for kind in kinds:
    text = inspect.cleandoc(kind.__doc__ or "")
    section = re.search(r"^(?:Attributes|Args):\n((?:  .*\n?|\n)+)", text, re.M)
    if section:
      entries = re.split(r"^  (\w+): ", section[1], flags=re.M)[1:]
      for name, entry in zip(entries[::2], entries[1::2], strict=True):
        found[name] = " ".join(entry.split())
  return found


def build(kind: type, raw: Any, path: str = "", default: Any = None) -> Any:
  """Builds a dataclass, and those within it, from a nested mapping.

  Args:
    kind: a dataclass.
    raw: values by field name; lists become tuples and integers floats, as the
      types require.
    path: dotted name of the dataclass in the config, for messages.
    default: an instance with values for fields that are not given; by default
      those of the dataclass.

  Returns:
    The instance.

  Raises:
    UsageError: a field is unknown or missing, or its value has a wrong type or
      is not allowed. The line names the field and what is allowed.
  """
  if not isinstance(raw, Mapping):
    raise UsageError(f"config.{path} must be a group of fields, got {raw!r}")
  prefix = f"{path}." if path else ""
  known = of(kind)
  for name in raw:
    if name not in known:
      raise UsageError(unknown(f"{prefix}{name}", known))
  values = {}
  for name, field in known.items():
    value = getattr(default, name, field.default)
    if name not in raw and value is dataclasses.MISSING:
      raise UsageError(f"config.{prefix}{name} is missing")
    if dataclasses.is_dataclass(field.hint):
      group = cast(type, field.hint)
      value = build(group, raw.get(name, {}), f"{prefix}{name}", value)
    else:  # check defaults too: they may come from a user's part
      value = raw.get(name, value)
      value = values_lib.coerce(field.hint, value, f"{prefix}{name}")
    values[name] = value
  with told(f"config.{path}" if path else "config"):
    return kind(**values)


def unknown(name: str, known: Collection[str]) -> str:
  """The message for a field that does not exist."""
  known = sorted(known)
  close = difflib.get_close_matches(name.rpartition(".")[2], known, 1)
  hint = f" (did you mean {close[0]}?)" if close else ""
  there = ", ".join(known)
  return f"there is no field config.{name}{hint}; there are: {there}"


def find(kind: type, name: str) -> Field:
  """Finds the field of a dotted name.

  Args:
    kind: a dataclass.
    name: such as `optimizer.momentum`.

  Returns:
    The field.

  Raises:
    UsageError: there is no such field, or it is a group of fields.
  """
  path, hint = "", kind
  field = None
  for part in name.split("."):
    if not dataclasses.is_dataclass(hint):
      raise UsageError(
        f"config.{path} has no fields, so config.{name} does not exist"
      )
    fields = of(hint)
    path = f"{path}.{part}" if path else part
    if part not in fields:
      raise UsageError(unknown(path, fields))
    field = fields[part]
    hint = field.hint
  if field is None or dataclasses.is_dataclass(hint):
    there = ", ".join(f"config.{path}.{x}" for x in of(hint))
    raise UsageError(f"config.{path} is a group of fields: set one of {there}")
  return field
