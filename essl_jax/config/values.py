"""Values of fields: read from text, and checked against types and bounds."""

import ast
import math
import types
import typing
from typing import Annotated, Any, Literal

from essl_jax.config.bounds import Bound
from essl_jax.errors import UsageError
from essl_jax.texts import unfit

_NONE = type(None)
# Numbers beyond these are nonsense. float32 holds them and their reciprocals.
_SMALLEST, _LARGEST = 1e-30, 1e30
_SHOWN = 200  # characters of a value in a message
_WORDS = {"true": True, "false": False, "inf": math.inf, "nan": math.nan}


def read(hint: Any, text: str, where: str) -> Any:
  """Reads the value of a flag from its text.

  Args:
    hint: the field's type.
    text: such as `0.4`, `(20, 200)`, `20,200`, `true`, `None`, or any word if
      the field is a string. A single value stands for a tuple of one where the
      tuple may have any length.
    where: dotted name of the field, for messages.

  Returns:
    The value, of the field's type.

  Raises:
    UsageError: the text is not a value of that type.
  """
  value: Any = text
  if text.lower() == "none" and _takes(hint, None) and not _takes(hint, text):
    return None
  if _takes_text(hint):
    if text[:1] in ("(", "[", '"', "'"):
      value = _literal(text)
  else:
    value = _WORDS.get(text.lower(), _literal(text))
  if isinstance(value, str) and _is_tuple(hint):
    value = tuple(x.strip() for x in value.split(",") if x.strip())
  return coerce(hint, _several(hint, value), where)


def _several(hint: Any, value: Any) -> Any:
  """One value alone as a tuple, where the field takes any number of them."""
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return _several(inner[0], value)
  if origin is not tuple or inner[-1] is not Ellipsis:
    return value
  is_alone = not isinstance(value, (list, tuple))
  if _is_tuple(inner[0]) and value and not is_alone:  # such as (0.0, 0.5)
    is_alone = not any(isinstance(x, (list, tuple)) for x in value)
  return (value,) if is_alone else value


def _literal(text: str) -> Any:
  """The Python value of a literal; the text itself if it is not a literal."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text


def _takes(hint: Any, value: str | None) -> bool:
  """Whether a field may be unset (for None), or has that text as a choice."""
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin is Literal:
    return value in inner
  if origin is Annotated:
    return _takes(inner[0], value)
  if origin in (types.UnionType, typing.Union):
    return any(_takes(x, value) for x in inner)
  return value is None and hint in (None, _NONE)


def _takes_text(hint: Any) -> bool:
  """Whether a field's values are strings, or tuples of them."""
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
    hint: the type, as in `Field`.
    value: lists become tuples and integers floats, as the type requires.
    where: dotted name of the field, for messages.

  Returns:
    The value.

  Raises:
    UsageError: it does not fit; the message is one line.
  """
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (types.UnionType, typing.Union):
    if value is None and _NONE in arguments:
      return None
    if value == "" and _NONE in arguments:  # such as of an unset $VARIABLE
      raise UsageError(f"config.{where} is empty: give a value or None")
    hints = [h for h in arguments if h is not _NONE]
    # If both a value and a tuple are allowed, a sequence is the tuple.
    is_tuple = isinstance(value, (list, tuple))
    fitting = [h for h in hints if _is_tuple(h) == is_tuple]
    return coerce((fitting or hints)[0], value, where)
  if origin is Literal:
    is_plain = isinstance(value, str | int | float)
    if not is_plain or isinstance(value, bool) or value not in arguments:
      known = ", ".join(map(str, arguments))
      raise UsageError(
        f"config.{where} must be one of {known}; got {_show(value)}"
      )
    return value
  if origin is Annotated:
    kind, *bounds = arguments
    value = coerce(kind, value, where)
    for bound in bounds if value is not None else ():
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
    raise UsageError(
      f"{name} must be {bound.words} {bound.limit}; got {_show(value)}"
    )


def _coerce_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
  if not isinstance(value, (list, tuple)):
    count = 1 if kinds[-1:] == (Ellipsis,) else len(kinds)
    is_plain = isinstance(value, int | float | str)
    advice = f", such as {_show((value,) * count)}" if is_plain else ""
    raise UsageError(
      f"config.{where} must be a tuple{advice}; got {_show(value)}"
    )
  if kinds[-1:] == (Ellipsis,):
    kinds = (kinds[0],) * len(value)
  if len(value) != len(kinds):
    raise UsageError(
      f"config.{where} must be {len(kinds)} values, got {_show(value)}"
    )
  pairs = zip(kinds, value, strict=True)
  try:
    return tuple(coerce(kind, item, where) for kind, item in pairs)
  except UsageError as error:
    text, whole = str(error), _show(tuple(value))
    if not text.endswith(whole):  # quote the whole tuple
      text = f"{text} in {whole}"
    raise UsageError(text) from error


def _coerce_plain(hint: type, value: Any, where: str) -> Any:
  is_bool = isinstance(value, bool)
  if hint is float and isinstance(value, int) and not is_bool:
    value = float(value) if abs(value) <= _LARGEST else math.inf
  if not isinstance(value, hint) or is_bool != (hint is bool):
    raise UsageError(
      f"config.{where} must be {hint.__name__}, got {_show(value)}"
    )
  if isinstance(value, float) and not math.isfinite(value):
    raise UsageError(f"config.{where} must be a finite number; got {value}")
  if isinstance(value, float | int) and value:
    if not _SMALLEST <= abs(value) <= _LARGEST:
      raise UsageError(
        f"config.{where} must be 0 or have an absolute value of"
        f" {_SMALLEST:g} to {_LARGEST:g}; got {_show(value)}"
      )
  elif isinstance(value, str) and (wrong := unfit(value)):
    raise UsageError(f"config.{where} {wrong}; got {_show(value)}")
  return value


def _show(value: Any) -> str:
  """A value for a message, cut if it is long."""
  try:
    text = repr(value)
  except Exception:  # an integer of thousands of digits, or a user's object
    return f"a value of type {type(value).__name__}"
  return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
