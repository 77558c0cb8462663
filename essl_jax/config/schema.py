"""The type of a config: `Config` with the fields of its parts."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import keyword
import pkgutil
from typing import Any

from essl_jax.config import fields, parts
from essl_jax.config import values as values_lib
from essl_jax.config.config import Config, Data, Encoder, Views
from essl_jax.errors import UsageError, told

# The fields that choose parts.
CHOICES = (
  "method",
  "terms",
  "evaluations",
  "loggers",
  "encoder.name",
  "data.name",
)
# The groups that the fields of a chosen part join.
GROUPS: dict[str, type] = {"encoder": Encoder, "data": Data}
_VIEWS = ("first", "second")


def schema(raw: Mapping[str, Any]) -> type[Config]:
  """Makes the type of a config.

  Args:
    raw: nested values; only the fields that choose parts are read.

  Returns:
    A dataclass; the same choices give the same one.

  Raises:
    UsageError: a part is unknown, of the wrong kind, listed twice or fails with
      its defaults, or the name of a field or view is taken or not allowed.
  """
  values = []
  for name in CHOICES:
    group, _, field = name.rpartition(".")
    holder = raw.get(group, {}) if group else raw
    if not isinstance(holder, Mapping):
      raise UsageError(
        f"config.{group} must be a group of fields, got {holder!r}"
      )
    known = fields.of(GROUPS.get(group, Config))[field]
    value = holder.get(field, known.default)
    if value is dataclasses.MISSING or (value is None and name == "data.name"):
      raise UsageError(f"config.{name} is missing")
    values.append(values_lib.coerce(known.hint, value, name))
    if isinstance(value, (list, tuple)) and len(set(value)) < len(value):
      raise UsageError(f"config.{name} lists a part twice: {', '.join(value)}")
  return _compose(*values)


@functools.cache
def _compose(
  method: str,
  terms: tuple[str, ...],
  evaluations: tuple[str, ...],
  loggers: tuple[str, ...],
  encoder: str,
  data: str,
) -> type[Config]:
  own = parts.METHOD.find(method)
  added = [
    (f"config.{kind.field}={name}", kind.find(name))
    for kind, names in (
      (parts.TERM, terms),
      (parts.EVALUATION, evaluations),
      (parts.LOGGER, loggers),
    )
    for name in names
  ]
  views = dict.fromkeys(_VIEWS)
  for where, part in ((f"config.method={method}", own), *added):
    views |= dict.fromkeys(_views_of(where, part))
  new = [
    _field("data", _extended("data", find_source(data))),
    _field("views", _make_views(views)),
    _field("encoder", _extended("encoder", parts.ENCODER.find(encoder))),
  ]
  taken = {x.name: "every config" for x in dataclasses.fields(Config)}
  for where, part in added:
    if fields.of(part):
      _claim(taken, part.section, where)
      with told(where):
        new.append(_field(part.section, part))
  for field in fields.of(own).values():
    _claim(taken, field.name, f"config.method={method}")
    new.append((field.name, field.hint, _default(field)))
  return dataclasses.make_dataclass(
    "Config", new, bases=(Config,), frozen=True, kw_only=True
  )


def _claim(taken: dict[str, str], name: str, owner: str) -> None:
  _check_name(name, f"{owner} has the field")
  if name in taken:
    raise UsageError(
      f"{owner} has the field {name}, but so has {taken[name]}: rename one of"
      " them"
    )
  taken[name] = owner


def _check_name(name: Any, where: str) -> None:
  """Refuses names that Python does not allow for a field."""
  is_name = isinstance(name, str) and name.isidentifier()
  if not is_name or keyword.iskeyword(name):
    raise UsageError(
      f"{where} {name!r}, which cannot be a field's name: rename it to a word"
      " of letters, digits and _ that Python does not use itself"
    )


def _views_of(where: str, part: Any) -> Sequence[str]:
  """The views in `config.views` that a part requests."""
  views = getattr(part, "views", ())
  if not isinstance(views, (list, tuple)):
    raise UsageError(
      f"{where}: views must be a tuple of names, such as ('third',); got"
      f" {views!r:.80}"
    )
  own = [x.name for x in dataclasses.fields(Views) if x.name not in _VIEWS]
  for view in views:
    _check_name(view, f"{where} asks for the view")
    if view in own:
      raise UsageError(
        f"{where} asks for the view {view}, but config.views.{view} is another"
        " field: rename the view"
      )
  return views


def _default(field: fields.Field) -> Any:
  return dataclasses.field(default=field.default, metadata={"help": field.help})


def _field(name: str, kind: type) -> tuple[str, Any, Any]:
  """A group of fields; it has a default if all its fields have one."""
  defaults = [field.default for field in fields.of(kind).values()]
  is_set = not any(x is dataclasses.MISSING for x in defaults)
  default = kind() if is_set else dataclasses.MISSING
  return name, kind, dataclasses.field(default=default)


def _extended(group: str, part: Any) -> type:
  """A group of fields, extended by those of the part that it chooses."""
  base = GROUPS[group]
  found = fields.of(part) if part is not None else {}
  for name in found:
    if name in fields.of(base):
      raise UsageError(
        f"{getattr(part, '__name__', part)} has the field {name}, but"
        f" config.{group}.{name} exists already: rename the field"
      )
  new = [(x.name, x.hint, _default(x)) for x in found.values()]
  with told(f"the fields of config.{group}"):
    return dataclasses.make_dataclass(
      base.__name__, new, bases=(base,), frozen=True, kw_only=True
    )


def encoder(raw: Mapping[str, Any]) -> Encoder:
  """Builds only the group `config.encoder`, from plain data such as metadata.

  Args:
    raw: `name` and the fields of that encoder.

  Returns:
    The group, checked.

  Raises:
    UsageError: as in `fields.build`.
  """
  part = parts.ENCODER.find(raw["name"])
  return fields.build(_extended("encoder", part), raw, "encoder")


def _make_views(names: Iterable[str]) -> type:
  view = pkgutil.resolve_name("essl_jax.augment:View")
  new = [(name, view, dataclasses.field(default=view())) for name in names]
  made = dataclasses.make_dataclass(
    "Views", new, bases=(Views,), frozen=True, kw_only=True
  )
  made.__doc__ = Views.__doc__
  return made


def find_source(name: str) -> Any:
  """The function that opens a source; None for TFDS sets and `.npz` files."""
  if parts.is_path(name) or name in parts.SOURCE.names():
    return parts.SOURCE.find(name)
  return None
