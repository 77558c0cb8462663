"""Writes the page of all fields, `docs/config.md`, from their classes."""

from collections.abc import Iterator
import pkgutil
from typing import Any

from essl_jax.config import parts
from essl_jax.config.config import Config, Views
from essl_jax.config.flags import show, type_name, walk

_BEGIN = """\
# Fields of a config

`python -m essl_jax.config > docs/config.md` writes this page from the classes
that hold the fields: edit their docstrings, not this page. Every field is a
flag: `--config.epochs=10`, `--config.knn.k=20,200`,
`--config.probe.resize_size=None`. `python -m essl_jax.main --config=RECIPE
--help` lists the fields of one recipe with their values.

## Every config
"""
_VIEWS = """\
## Views

Methods and terms name the views they need. The methods below need `first` and
`second`, the prediction of transformations needs `third`. Each view has these
fields:
"""
# Kinds, where their fields are, and the prefix there; None: the part's section.
_KINDS = (
  (parts.METHOD, "Methods", "are at the top level", ""),
  (parts.TERM, "Equivariance terms", "form a group", None),
  (parts.ENCODER, "Encoders", "are in `config.encoder`", "encoder."),
  (parts.SOURCE, "Sources", "are in `config.data`", "data."),
  (parts.EVALUATION, "Evaluations", "form a group", None),
  (parts.LOGGER, "Loggers", "form a group", None),
)


def page() -> str:
  """The whole page, in Markdown."""
  return "\n".join(_lines())


def _lines() -> Iterator[str]:
  yield _BEGIN
  yield from _table(Config)
  yield _VIEWS
  yield from _table(
    pkgutil.resolve_name("essl_jax.augment:View"), "views.NAME."
  )
  yield "`config.views` also has these fields:\n"
  yield from _table(Views, "views.")
  for kind, title, place, prefix in _KINDS:
    yield f"## {title}\n"
    yield f"`config.{kind.field}` names {kind.noun}, or `module:Name` of your"
    yield f"own; its fields {place}.\n"
    for name in kind.names():
      part = kind.find(name)
      yield f"### {kind.module} `{name}`\n"
      yield (part.__doc__ or "").strip().split("\n")[0] + "\n"
      yield from _table(part, f"{part.section}." if prefix is None else prefix)


def _table(part: Any, path: str = "") -> Iterator[str]:
  """A table of the fields of a part and of its groups; empty without fields."""
  rows = list(walk(part, {}, path))
  if not rows:
    return
  yield "| field | type | default | what it does |"
  yield "|---|---|---|---|"
  for name, field, default in rows:
    cells = (
      f"`{name}`",
      type_name(field.hint),
      f"`{show(default)}`",
      field.help,
    )
    yield "| " + " | ".join(x.replace("|", "\\|") for x in cells) + " |"
  yield ""
