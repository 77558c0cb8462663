"""Converts plain data to a checked config, and back."""

from collections.abc import Collection, Iterator, Mapping, Sequence
import contextlib
import dataclasses
from typing import Any, cast

import ml_collections

from essl_jax.config import checks, drawn_views, fields, parts
from essl_jax.config.config import Config, Encoder
from essl_jax.config.schema import find_source, schema
from essl_jax.errors import UsageError, told

# Fields that do not change what is trained: a workdir accepts new values of
# these, and of the groups of evaluations.
_FREE_FIELDS = (
  "mode",
  "data.dir",
  "data.cache_gib",
  "data.labelled_dir",
  "data.labelled_split",
  "data.labelled_test_split",
  "evaluations",
  "measures",
  "log_every",
  "loggers",
  "steps_per_dispatch",
  "checkpoint_every_epochs",
  "evaluate_checkpoint",
  "evaluate_network",
  "evaluate_features",
)


def base(
  *,
  method: str | None = None,
  encoder: str | None = None,
  data: str | None = None,
  terms: tuple[str, ...] | None = None,
  evaluations: tuple[str, ...] | None = None,
) -> ml_collections.ConfigDict:
  """All defaults of the config, as the start of a recipe.

  Args:
    method: a known method, or `module:Class`; its fields are then in the
      config. A recipe may instead set `config.method` later, with only those
      fields of the method that differ from its defaults.
    encoder: a known encoder or `module:Class`, likewise.
    data: name of the source, likewise.
    terms: equivariance terms, by default those of `Config`; each has a group of
      fields.
    evaluations: evaluations, likewise.

  Returns:
    The config. `parse` drops unchanged groups of terms and evaluations that the
    recipe does not choose in the end.
  """
  raw: dict[str, Any] = {
    "method": method or "simclr",
    "encoder": {"name": encoder or "resnet"},
    "data": {"name": data or ""},
  }
  if terms is not None:
    raw["terms"] = tuple(terms)
  if evaluations is not None:
    raw["evaluations"] = tuple(evaluations)
  filled = _filled(schema(raw), raw)
  if method is None:
    for name in fields.of(parts.METHOD.find(raw["method"])):
      del filled[name]
  if encoder is None:
    filled["encoder"] = raw["encoder"]
  filled["data"]["name"] = data
  return ml_collections.ConfigDict(filled, type_safe=False)


def _filled(kind: type, raw: Mapping[str, Any]) -> dict[str, Any]:
  """All fields of a dataclass: those given, else their defaults."""
  found: dict[str, Any] = {}
  for name, field in fields.of(kind).items():
    default = field.default
    if dataclasses.is_dataclass(field.hint):
      given = raw.get(name, {})
      if default is not dataclasses.MISSING:
        given = as_default(default) | given
      found[name] = _filled(cast(type, field.hint), given)
    elif name in raw or default is not dataclasses.MISSING:
      found[name] = raw.get(name, default)
  return found


def as_default(default: Any) -> Any:
  """A field's default as plain data."""
  if dataclasses.is_dataclass(default) and not isinstance(default, type):
    return dataclasses.asdict(default)
  return default


def parse(raw: Mapping[str, Any], given: Collection[str] = ()) -> Config:
  """Builds and checks the typed config.

  Args:
    raw: nested mapping, such as `ConfigDict.to_dict()`.
    given: dotted names of the fields in it that flags have set.

  Returns:
    The config, of the type that `schema` gives.

  Raises:
    UsageError: a field is unknown or missing, or its value has a wrong type or
      no meaning. The line names the field and what is allowed.
  """
  kind = schema(raw)
  config = fields.build(kind, _without_others(raw, kind))
  checks.check(config)
  return drawn_views.only(config, (method(config), *terms(config)), given)


def _without_others(raw: Mapping[str, Any], kind: type) -> dict[str, Any]:
  """Drops what `base` wrote for parts that are not chosen.

  Args:
    raw: nested values.
    kind: the type of the config, from `schema`.

  Returns:
    The values of the parts that are chosen.

  Raises:
    UsageError: a value of a part that is not chosen was changed.
  """
  known = fields.of(kind)
  kept = dict(raw)
  for name in (x for x in raw if x not in known):
    value, owners = raw[name], list(_owners(name))
    if value is None or any(_equal(value, default) for _, default in owners):
      del kept[name]
    elif owners:
      checks.refuse_unread(raw, name, owners[0][0])
  if isinstance(raw.get("views"), Mapping):
    kept["views"] = _without_views(raw["views"], fields.of(known["views"].hint))
  return kept


def _without_views(
  raw: Mapping[str, Any], known: Mapping[str, fields.Field]
) -> dict[str, Any]:
  """Drops the views that only other parts request."""
  others = {
    view
    for kind in (parts.TERM, parts.METHOD)
    for part in map(kind.find, kind.names())
    for view in part.views
    if view not in known
  }
  default = as_default(known["first"].default)
  for name in others & set(raw):
    if not _is_left_alone(raw[name], default, raw.get("first")):
      raise UsageError(
        f"config.views.{name} belongs to no part of this config: leave it unset"
      )
  return {name: x for name, x in raw.items() if name not in others}


def _is_left_alone(value: Any, default: Mapping[str, Any], first: Any) -> bool:
  """Whether a view has only values that `base` and `update_views` write."""
  if not isinstance(value, Mapping):
    return False
  known = [x for x in (default, first) if isinstance(x, Mapping)]
  return all(
    any(name in x and _equal(field, x[name]) for x in known)
    for name, field in value.items()
  )


def _owners(name: str) -> Iterator[tuple[parts.Kind, Any]]:
  """Yields kinds of known parts with this field or group, and its default."""
  for kind in (parts.EVALUATION, parts.TERM, parts.LOGGER):
    for part in map(kind.find, kind.names()):
      if part.section == name and fields.of(part):
        yield kind, part()
  for part in map(parts.METHOD.find, parts.METHOD.names()):
    if name in fields.of(part):
      yield parts.METHOD, fields.of(part)[name].default


def _equal(value: Any, default: Any) -> bool:
  default = as_default(default)
  if isinstance(value, Mapping) and isinstance(default, Mapping):
    return all(k in default and _equal(x, default[k]) for k, x in value.items())
  if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
    return list(value) == list(default)
  return value == default


def method(config: Config) -> Any:
  """The method of a config, with its fields."""
  part = parts.METHOD.find(config.method)
  with told(f"config.method={config.method}"):
    return part(**_values(config, part))


def evaluated_network(config: Config) -> str:
  """Which network evaluations measure: "online" or "target"."""
  own = parts.METHOD.find(config.method).evaluated_network
  return str(config.evaluate_network or own)


def terms(config: Config) -> list[Any]:
  """The equivariance terms of a config, with their fields."""
  return _groups(config, parts.TERM, config.terms)


def evaluations(config: Config) -> list[Any]:
  """The evaluations of a config, with their fields."""
  return _groups(config, parts.EVALUATION, config.evaluations)


def loggers(config: Config) -> list[Any]:
  """The loggers of a config, with their fields."""
  return _groups(config, parts.LOGGER, config.loggers)


def _groups(
  config: Config, kind: parts.Kind, names: Sequence[str]
) -> list[Any]:
  """The parts of these names: their groups, or new ones if without fields."""
  found = []
  for name in names:
    part = kind.find(name)
    with told(f"config.{kind.field}={name}"):
      has_group = bool(fields.of(part))
      found.append(getattr(config, part.section) if has_group else part())
  return found


def _values(group: Any, part: Any) -> dict[str, Any]:
  """The values that a group has for the fields of a part."""
  return {name: getattr(group, name) for name in fields.of(part)}


def ranking_figure(config: Config) -> str:
  """The figure that ranks checkpoints; kNN's if no evaluation names one."""
  found = [x.ranks for x in evaluations(config) if x.ranks]
  return found[0] if found else "knn_top1"


def encoder_fields(group: Encoder) -> dict[str, Any]:
  """The values of an encoder's own fields in `config.encoder`."""
  return _values(group, parts.ENCODER.find(group.name))


def source_fields(config: Config) -> dict[str, Any]:
  """The values of the fields that the source adds to `config.data`."""
  part = find_source(config.data.name)
  return {} if part is None else _values(config.data, part)


def free_fields(
  config: Config, before: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
  """Dotted names of the fields that do not change the training.

  Args:
    config: the fields of its evaluations and loggers are free, and those of
      all known ones.
    before: another config as plain data; its parts count too.

  Returns:
    The names of fields and of groups.
  """
  groups = []
  for kind in (parts.EVALUATION, parts.LOGGER):
    names = (*kind.names(), *getattr(config, kind.field))
    groups += [kind.find(name).section for name in names]
    for name in (before or {}).get(kind.field, ()):
      with contextlib.suppress(UsageError):  # its module may be gone
        groups.append(kind.find(name).section)
  return (*_FREE_FIELDS, *dict.fromkeys(groups))


def defaults(config: Config) -> dict[str, Any]:
  """The default of every field that has one, nested like `to_dict`."""
  return _filled(type(config), {})


def to_dict(config: Config) -> dict[str, Any]:
  """The config as nested plain data, for `config.json`."""
  return dataclasses.asdict(config)
