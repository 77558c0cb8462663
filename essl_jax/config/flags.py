"""Recipes and the flags that override their fields."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import importlib.util
import pathlib
import textwrap
import types
import typing
from typing import Any

from essl_jax.config import fields, parts, recipes
from essl_jax.config import values as values_lib
from essl_jax.config.config import Config
from essl_jax.config.parsing import as_default, parse
from essl_jax.config.schema import CHOICES, find_source, schema
from essl_jax.errors import UsageError, told
from essl_jax.texts import unfit

Say = Callable[[str], None]

_PREFIX = "config."
# A recipe's function of the values and the names that flags have set. It may
# change other fields to suit the data, and yields a line about each change.
_ADAPT = "adapt"
# The field that chooses a data set, and fields that belong to that set only.
_SET, _SPLITS = "data.name", ("train_split", "labelled_split", "test_split")
# How to find the parts whose fields are beside the one that chooses them.
_FIND: dict[str, Callable[[str], Any]] = {
  "method": parts.METHOD.find,
  "encoder.name": parts.ENCODER.find,
  "data.name": find_source,
}


def load(
  path: str,
  overrides: Sequence[str] | Mapping[str, Any] = (),
  say: Say = lambda _: None,
) -> Config:
  """The config of a recipe with flags applied.

  Args:
    path: path of the recipe's file, or its name, with variants after a colon.
    overrides: flags such as `--config.epochs=10`, or values by dotted names.
    say: called with a line for each choice that the recipe makes by itself.

  Returns:
    The config, checked.

  Raises:
    UsageError: the file is missing or does not load, or a flag names an unknown
      field, has a value that is not allowed or sets a view that nothing draws.
  """
  return parse(raw(path, overrides, say), names(overrides))


def raw(
  path: str,
  overrides: Sequence[str] | Mapping[str, Any] = (),
  say: Say = lambda _: None,
) -> dict[str, Any]:
  """Like `load`, as nested plain data, before values are checked together."""
  recipe, values = _read_recipe(path)
  values = override(values, overrides)
  if adapt := getattr(recipe, _ADAPT, None):
    with told(f"config file {recipe.__file__}, {_ADAPT}"):  # user code
      for line in adapt(values, set(names(overrides))):
        say(line)
  return values


def override(
  values: dict[str, Any], overrides: Sequence[str] | Mapping[str, Any]
) -> dict[str, Any]:
  """Applies flags, or values by dotted names, to the values of a config.

  Args:
    values: nested values of a recipe or a run; changed in place.
    overrides: as in `load`.

  Returns:
    The values.

  Raises:
    UsageError: as in `load`.
  """
  pairs = list(_pairs(overrides))
  for name, read in pairs:
    if name in CHOICES:
      known = fields.find(Config, name)
      _switch(values, name, read(known.hint, name))
  kind = schema(values)
  for name, read in pairs:
    if name not in CHOICES:
      value = read(fields.find(kind, name).hint, name)
      *groups, field = name.split(".")
      holder = values
      for group in groups:
        holder = holder.setdefault(group, {})
      holder[field] = value
  return values


def names(overrides: Sequence[str] | Mapping[str, Any]) -> list[str]:
  """Dotted names of the fields that flags or values set."""
  return [name for name, _ in _pairs(overrides)]


def _pairs(
  overrides: Sequence[str] | Mapping[str, Any],
) -> Iterator[tuple[str, Callable[[Any, str], Any]]]:
  """Yields dotted names, and functions that read the value for a type."""
  if isinstance(overrides, Mapping):
    for name, value in overrides.items():
      yield name, functools.partial(_read, values_lib.coerce, value)
    return
  for name, text in map(_split, overrides):
    yield name, functools.partial(_read, values_lib.read, text)


def _read(read: Callable[..., Any], value: Any, hint: Any, name: str) -> Any:
  return read(hint, value, name)


def _split(word: str) -> tuple[str, str]:
  """Name and text of a flag; a flag without a value means true."""
  name, equals, text = word.lstrip("-").partition("=")
  if name.startswith("no" + _PREFIX) and not equals:
    return name.removeprefix("no" + _PREFIX), "false"
  return name.removeprefix(_PREFIX), text if equals else "true"


def _switch(values: dict[str, Any], name: str, value: Any) -> None:
  """Chooses another part; drops what the recipe set for the previous part."""
  group, _, field = name.rpartition(".")
  holder = values.setdefault(group, {}) if group else values
  if holder.get(field) in (value, None):  # nothing to drop
    holder[field] = value
    return
  if name == _SET:  # the splits belong to the previous data set
    for own in _SPLITS:
      holder.pop(own, None)
  before = fields.of(schema(values))
  if name in _FIND and (part := _FIND[name](holder[field])) is not None:
    for own in fields.of(part):
      holder.pop(own, None)
  holder[field] = value
  after = fields.of(schema(values))
  for own in set(before) - set(after):
    values.pop(own, None)
  views, kept = (fields.of(x["views"].hint) for x in (before, after))
  for view in set(views) - set(kept):
    values.get("views", {}).pop(view, None)


def is_flag(word: str) -> bool:
  """Whether a word of the command line overrides a field."""
  return word.lstrip("-").startswith((_PREFIX, f"no{_PREFIX}"))


def read_recipe(path: str) -> dict[str, Any]:
  """The values of a recipe, as nested plain data.

  Afterwards, modules beside the recipe can be imported, then those of the
  current folder, so recipes may build on each other and bring parts.

  Args:
    path: path of its file, or its name, with variants after a colon.

  Returns:
    The values of its `ConfigDict`.

  Raises:
    UsageError: it is missing, does not load, or has no such variant.
  """
  return _read_recipe(path)[1]


def _read_recipe(path: str) -> tuple[types.ModuleType, dict[str, Any]]:
  """Like `read_recipe`, with the recipe's module first."""
  name, _, variant = path.partition(":")
  if wrong := unfit(name):
    raise UsageError(f"--config {wrong}; got {name!r:.200}")
  file = recipes.locate(name)
  if not name or not file.is_file():
    raise UsageError(_missing(name, file))
  recipes.make_importable(file.resolve().parent)
  spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
  if spec is None or spec.loader is None:
    raise UsageError(f"config file {name} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  with told(f"config file {name}"):  # user code
    try:
      spec.loader.exec_module(module)
      if not hasattr(module, "get_config"):
        raise UsageError(
          f"config file {name} is not a recipe: it has no function get_config"
        )
      found = module.get_config(variant) if variant else module.get_config()
      return module, found.to_dict()
    except SyntaxError as error:
      if error.filename is None:  # such as a NUL character in the text
        raise UsageError(
          f"config file {name} is not valid Python: {error.msg}"
        ) from error
      raise UsageError(
        f"cannot read {error.filename}, line {error.lineno}: {error.msg}"
      ) from error
    except ModuleNotFoundError as error:
      raise UsageError(
        f"config file {name} needs the module {error.name}: put it beside the"
        " recipe, or install it"
      ) from error


def _missing(name: str, file: pathlib.Path) -> str:
  """The message for a missing recipe."""
  if name and recipes.is_name(name):
    return (
      f"there is no recipe {name!r}: {recipes.near(name)} (`essl-jax recipes`"
      " lists them)"
    )
  there = ", ".join(sorted(other.name for other in file.parent.glob("*.py")))
  return (
    f"config file {name} does not exist: {file.parent.absolute()} holds"
    f" {there or 'no recipes'}"
  )


def describe(kind: type, defaults: Mapping[str, Any]) -> Iterator[str]:
  """Lines for every field of a config: flag, default, type, what it does.

  Args:
    kind: from `schema`.
    defaults: the values to show, nested.

  Yields:
    The lines.
  """
  for name, field, value in walk(kind, defaults):
    yield f"  --config.{name}={show(value)}"
    about = f"{type_name(field.hint)}: {first_sentence(field.help)}"
    indent = " " * 6
    yield textwrap.fill(
      about, 78, initial_indent=indent, subsequent_indent=indent
    )


def walk(
  kind: Any, values: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, fields.Field, Any]]:
  """Yields the fields of a part and of its groups: name, field and value."""
  for name, field in fields.of(kind).items():
    value = values.get(name, as_default(field.default))
    if dataclasses.is_dataclass(field.hint):
      inner = value if isinstance(value, Mapping) else {}
      yield from walk(field.hint, inner, f"{path}{name}.")
    else:
      yield f"{path}{name}", field, value


def show(value: Any) -> str:
  """A value as written in a flag."""
  if value is dataclasses.MISSING:
    return "(set it)"
  return str(value).replace(" ", "") if isinstance(value, tuple) else str(value)


def first_sentence(text: str) -> str:
  """The text up to the end of its first sentence."""
  return text.split(". ")[0].rstrip(".")


def type_name(hint: Any) -> str:
  """A type as shown to users, such as `tuple of int >= 1`."""
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Literal:
    return " or ".join(map(str, inner))
  if origin is typing.Annotated:
    kind, *bounds = inner
    if typing.get_origin(kind) is tuple:
      limits = " and ".join(f"{x.words} {x.limit:,}" for x in bounds)
      return f"{type_name(kind)}, {limits} of them"
    limits = " and ".join(f"{x.symbol} {x.limit:,}" for x in bounds)
    return f"{type_name(kind)} {limits}"
  if origin is tuple:
    if inner[-1] is Ellipsis:
      return f"tuple of {type_name(inner[0])}"
    return f"({', '.join(map(type_name, inner))})"
  if inner:
    return " or ".join(type_name(x) for x in inner)
  return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))
