"""The page of all fields, `docs/config.md`: written from their classes."""

from collections.abc import Iterator
import dataclasses
import pkgutil
from typing import Any, cast

from essl_jax.config import fields, parts
from essl_jax.config.config import Config, Views
from essl_jax.config.flags import show, type_name
from essl_jax.config.schema import GROUPS

_COMMAND = "python -m essl_jax.config"
_KINDS = (
  (parts.METHOD, "Methods", "stand at the top level", ""),
  (parts.TERM, "Equivariance terms", "stand in a group of each", None),
  (parts.ENCODER, "Encoders", "stand in `config.encoder`", "encoder."),
  (parts.SOURCE, "Sources", "stand in `config.data`", "data."),
  (parts.EVALUATION, "Evaluations", "stand in a group of each", None),
)


def page() -> str:
  """The whole page, in Markdown."""
  return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
  yield "# Fields of a config"
  yield ""
  yield f"Written by `{_COMMAND} > docs/config.md` from the classes that hold"
  yield "them; edit their docstrings, not this page. Every field is a flag:"
  yield "`--config.epochs=10`, `--config.knn.k=20,200`,"
  yield "`--config.probe.resize_size=None`. `python -m essl_jax.main"
  yield "--config=RECIPE --help` lists those of one recipe with its values."
  yield ""
  yield "## Every config"
  yield ""
  yield from _table(_walk(Config))
  yield "## Views"
  yield ""
  yield "Every part names the views that it asks for: the methods here `first`"
  yield "and `second`, the prediction of transformations `third`. Each view has"
  yield "these fields:"
  yield ""
  view = pkgutil.resolve_name("essl_jax.augment:View")
  yield from _table(_walk(view, "views.first."))
  yield "Beside the views stand:"
  yield ""
  own = [
    x for x in _walk(Views, "views.") if x[1].help and x[1].hint is not Any
  ]
  yield from _table(own)
  for kind, title, place, prefix in _KINDS:
    yield f"## {title}"
    yield ""
    yield f"`config.{kind.field}` names {kind.noun}, or `module:Name` of your"
    yield f"own; its fields {place}."
    yield ""
    for name in kind.names():
      part = kind.find(name)
      yield f"### {kind.field.partition('.')[0]} `{name}`"
      yield ""
      yield (part.__doc__ or "").strip().split("\n")[0]
      yield ""
      group = f"{part.section}." if prefix is None else prefix
      rows = list(_walk(part, group))
      if rows:
        yield from _table(rows)


def _walk(kind: Any, path: str = "") -> Iterator[tuple[str, fields.Field]]:
  for name, field in fields.of(kind).items():
    hint = GROUPS.get(name, field.hint) if kind is Config else field.hint
    if dataclasses.is_dataclass(hint):
      inner = type(field.default) if _is_made(field.default) else hint
      for inner_name, each in _walk(cast(type, hint), f"{path}{name}."):
        field_name = inner_name.rpartition(".")[2]
        default = getattr(field.default, field_name, each.default)
        is_own = _is_made(field.default) and inner is hint
        shown = dataclasses.replace(each, default=default) if is_own else each
        yield inner_name, shown
    else:
      yield f"{path}{name}", field


def _is_made(default: Any) -> bool:
  return dataclasses.is_dataclass(default) and not isinstance(default, type)


def _table(rows: Any) -> Iterator[str]:
  yield "| field | type | default | what it does |"
  yield "|---|---|---|---|"
  for name, field in rows:
    default = field.default
    shown = "(set it)" if default is dataclasses.MISSING else show(default)
    cells = (f"`{name}`", type_name(field.hint), f"`{shown}`", field.help)
    yield "| " + " | ".join(x.replace("|", "\\|") for x in cells) + " |"
  yield ""
