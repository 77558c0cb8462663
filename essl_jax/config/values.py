"""Values of fields: from texts, and checked against types and bounds."""

import ast
import math
import types
import typing
from typing import Annotated, Any, Literal

from essl_jax.config.bounds import Bound
from essl_jax.errors import UsageError

_NONE = type(None)
_WORDS = {"true": True, "false": False, "inf": math.inf, "nan": math.nan}


def read(hint: Any, text: str, where: str) -> Any:
  """The value that a flag's text stands for.

  Args:
    hint: the field's type.
    text: such as `0.4`, `(20, 200)`, `20,200`, `true`, `None` or any word
      where the field is a text.
    where: dotted name of the field, for messages.

  Returns:
    The value, of the field's type.

  Raises:
    UsageError: the text stands for no such value.
  """
  value: Any = text
  if _NONE in typing.get_args(hint) and text.lower() == "none":
    return None
  if _takes_text(hint):
    if text[:1] in ("(", "[", '"', "'"):
      value = _literal(text)
  else:
    value = _WORDS.get(text.lower(), _literal(text))
  if isinstance(value, str) and _is_tuple(hint):
    value = tuple(x.strip() for x in value.split(",") if x.strip())
  return coerce(hint, value, where)


def _literal(text: str) -> Any:
  """The Python value that a text spells; the text itself where it does not."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text


def _takes_text(hint: Any) -> bool:
  """Whether a field's values are texts, or tuples of them."""
  inner = [x for x in typing.get_args(hint) if x is not Ellipsis]
  return hint is str or isinstance(hint, str) or any(map(_takes_text, inner))


def _is_tuple(hint: Any) -> bool:
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return _is_tuple(inner[0])
  if origin in (types.UnionType, typing.Union):
    return all(_is_tuple(x) for x in inner if x is not _NONE)
  return origin is tuple


def coerce(hint: Any, value: Any, where: str) -> Any:
  """Checks a value against a type, its choices and its bounds.

  Args:
    hint: the type, as of `Field`.
    value: lists become tuples, integers floats, as asked.
    where: dotted name of the field, for messages.

  Returns:
    The value.

  Raises:
    UsageError: it does not fit, in one line.
  """
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (types.UnionType, typing.Union):
    if value is None and _NONE in arguments:
      return None
    hints = [h for h in arguments if h is not _NONE]
    # Of a value or a tuple of them, what is no sequence is the value.
    is_tuple = isinstance(value, (list, tuple))
    fitting = [h for h in hints if _is_tuple(h) == is_tuple]
    return coerce((fitting or hints)[0], value, where)
  if origin is Literal:
    if value not in arguments or isinstance(value, bool):
      known = ", ".join(map(str, arguments))
      raise UsageError(f"config.{where} must be one of {known}; got {value!r}")
    return value
  if origin is Annotated:
    kind, *bounds = arguments
    value = coerce(kind, value, where)
    for bound in bounds:
      _check_bound(bound, value, where)
    return value
  if origin is tuple:
    return _coerce_tuple(arguments, value, where)
  return _coerce_plain(hint, value, where)


def _check_bound(bound: Bound, value: Any, where: str) -> None:
  name, number = f"config.{where}", value
  if isinstance(value, tuple):
    name, number = f"{name}: the number of values", len(value)
  if not bound.compare(number, bound.limit):
    raise UsageError(f"{name} must be {bound.words} {bound.limit}; got {value}")


def _coerce_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
  if not isinstance(value, (list, tuple)):
    raise UsageError(f"config.{where} must be a tuple, got {value!r}")
  if kinds[-1:] == (Ellipsis,):
    kinds = (kinds[0],) * len(value)
  if len(value) != len(kinds):
    raise UsageError(
      f"config.{where} must be {len(kinds)} values, got {value!r}"
    )
  pairs = zip(kinds, value, strict=True)
  try:
    return tuple(coerce(kind, item, where) for kind, item in pairs)
  except UsageError as error:
    text = str(error)
    if not text.endswith(f"{value}"):  # the whole tuple helps more
      text = f"{text} in {tuple(value)}"
    raise UsageError(text) from error


def _coerce_plain(hint: type, value: Any, where: str) -> Any:
  is_bool = isinstance(value, bool)
  if hint is float and isinstance(value, int) and not is_bool:
    value = float(value)
  if not isinstance(value, hint) or is_bool != (hint is bool):
    raise UsageError(f"config.{where} must be {hint.__name__}, got {value!r}")
  if isinstance(value, float) and not math.isfinite(value):
    raise UsageError(f"config.{where} must be a finite number; got {value}")
  return value
