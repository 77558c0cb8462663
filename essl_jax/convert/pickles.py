"""Reads pickles as data: nothing in them is imported, created or called.

`pickletools` documents the operations. A class or function that a pickle names
stays a name; the caller decides what a call of it means.
"""

from collections.abc import Callable
import dataclasses
import io
import pickletools
import re
from typing import Any

MOST_OPERATIONS = 2_000_000  # takes a few seconds; a ResNet-50 has 20,000

_MARK = object()
_VALUES = re.compile(
  r"INT|BININT[12]?|LONG[14]?|(BIN)?FLOAT|(SHORT_)?BINBYTES8?|BYTEARRAY8"
  r"|(SHORT_)?(BIN)?STRING|(SHORT_)?(BIN)?UNICODE8?"
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
  "NONE": lambda: None,
  "NEWTRUE": lambda: True,
  "NEWFALSE": lambda: False,
  "EMPTY_DICT": dict,
  "EMPTY_LIST": list,
  "EMPTY_SET": list,
  "EMPTY_TUPLE": tuple,
}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class RefusedError(ValueError):
  """The pickle asks for something not known to be harmless."""


@dataclasses.dataclass(frozen=True)
class Name:
  """A class or function that a pickle names: `module.name`."""

  name: str


@dataclasses.dataclass(eq=False)
class Inert:
  """A placeholder for the result of a call.

  Attributes:
    name: of the class or function.
  """

  name: str


def load(
  file: io.BytesIO,
  name: Callable[[str], Any],
  call: Callable[[str, tuple[Any, ...]], Any],
  persistent: Callable[[Any], Any],
) -> Any:
  """Reads one pickle and stops after it.

  Args:
    file: positioned at the pickle's start.
    name: returns the value for `module.name`, a `Name` if it may be called;
      may raise RefusedError.
    call: returns the value for a call of a `Name` with these arguments.
    persistent: returns the value for a persistent identifier.

  Returns:
    Nested dicts, lists, tuples and values, with sets as lists. It may contain
    itself.

  Raises:
    RefusedError: from `name`, and for operations that no state dict needs.
    Exception: of any kind, for damaged pickles.
  """
  reader = _Reader(name, call, persistent)
  for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
    if count >= MOST_OPERATIONS:
      raise ValueError(f"more than {MOST_OPERATIONS:,} operations")
    reader.do(operation.name, argument)
  return reader.stack[-1]


class _Reader:
  """The stack and the memo of one pickle."""

  def __init__(self, name: Any, call: Any, persistent: Any):
    self.stack: list[Any] = []
    self._memo: dict[int, Any] = {}
    self._name, self._call, self._persistent = name, call, persistent

  def do(self, name: str, argument: Any) -> None:
    """Executes one operation."""
    stack = self.stack
    if _VALUES.fullmatch(name):
      stack.append(argument)
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name]())
    elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
      index = len(self._memo) if name == "MEMOIZE" else argument
      self._memo[index] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
      stack.append(self._memo[argument])
    elif name == "MARK":
      stack.append(_MARK)
    elif name in _SHORT_TUPLES:
      count = _SHORT_TUPLES[name]
      stack[-count:] = [tuple(stack[-count:])]
    elif name == "DUP":
      stack.append(stack[-1])
    elif name == "POP":
      stack.pop()
    elif name == "POP_MARK":
      self._since_mark()
    elif name in ("PROTO", "FRAME", "STOP"):
      pass
    elif not self._collect(name):
      self._make(name, argument)

  def _collect(self, name: str) -> bool:
    """Fills containers; returns whether it was such an operation."""
    stack = self.stack
    if name in ("TUPLE", "LIST", "FROZENSET"):
      items = self._since_mark()
      stack.append(tuple(items) if name == "TUPLE" else items)
    elif name == "DICT":
      items = self._since_mark()
      stack.append({})
      _update(stack[-1], items)
    elif name in ("APPENDS", "ADDITEMS"):
      items = self._since_mark()
      _as_list(stack[-1]).extend(items)
    elif name == "APPEND":
      item = stack.pop()
      _as_list(stack[-1]).append(item)
    elif name == "SETITEMS":
      items = self._since_mark()
      _update(stack[-1], items)
    elif name == "SETITEM":
      items = [stack.pop(), stack.pop()][::-1]
      _update(stack[-1], items)
    else:
      return False
    return True

  def _make(self, name: str, argument: Any) -> None:
    """Handles names and calls, without looking anything up or calling it."""
    stack = self.stack
    if name == "GLOBAL":
      stack.append(self._name(argument.replace(" ", ".", 1)))
    elif name == "STACK_GLOBAL":
      inner, module = stack.pop(), stack.pop()
      stack.append(self._name(f"{module}.{inner}"))
    elif name in ("REDUCE", "NEWOBJ"):
      arguments, function = stack.pop(), stack.pop()
      if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise ValueError("a call of something that is not a function")
      stack.append(self._call(function.name, arguments))
    elif name == "BUILD":
      stack.pop()  # attributes, such as versions beside a state dict
    elif name == "BINPERSID":
      stack.append(self._persistent(stack.pop()))
    else:
      raise RefusedError(f"the operation {name}")

  def _since_mark(self) -> list[Any]:
    stack, items = self.stack, []
    while (item := stack.pop()) is not _MARK:
      items.append(item)
    return items[::-1]


def to_dict(pairs: list[Any]) -> dict[Any, Any]:
  """Makes a dictionary of keys and values, like `OrderedDict`."""
  found: dict[Any, Any] = {}
  for key, value in pairs:
    _update(found, [key, value])
  return found


def _as_list(found: Any) -> list[Any]:
  if isinstance(found, Inert):
    return []
  if not isinstance(found, list):
    raise ValueError("items for something that is not a list")
  return found


def _update(found: Any, items: list[Any]) -> None:
  """Sets alternating keys and values."""
  if isinstance(found, Inert):
    return
  if not isinstance(found, dict):
    raise ValueError("entries for something that is not a dictionary")
  for key, value in zip(items[::2], items[1::2], strict=True):
    if not isinstance(key, str):
      # Nested tuples and integers of a gigabyte are slow to hash.
      is_short = isinstance(key, int) and key.bit_length() < 64
      key = key if is_short else f"<{type(key).__name__} {len(found)}>"
    found[key] = value
