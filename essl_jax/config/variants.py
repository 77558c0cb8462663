"""What recipes share: their variants, `--config=file.py:a,b`, and views."""

from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from essl_jax.config import parsing, parts
from essl_jax.config.config import Config
from essl_jax.errors import UsageError


def update_views(config: ml_collections.ConfigDict, **values: Any) -> None:
  """Sets fields of all views of a recipe.

  Args:
    config: from `base`.
    **values: of `augment.View`, such as `size=224`.
  """
  for view in config.views.values():
    if isinstance(view, ml_collections.ConfigDict):
      view.update(values)


def variants(text: str | None, allowed: Mapping[str, str]) -> frozenset[str]:
  """The variants named after the colon of `--config=file.py:a,b`.

  Args:
    text: the text after the colon, or None.
    allowed: what each variant is for, by name.

  Returns:
    The names that were given.

  Raises:
    UsageError: a name is not allowed.
  """
  chosen = frozenset(filter(None, (text or "").replace(" ", "").split(",")))
  for name in sorted(chosen - set(allowed)):
    known = "; ".join(f"{key} ({why})" for key, why in allowed.items())
    raise UsageError(f"unknown config variant {name!r}; there are: {known}")
  return chosen


def option(chosen: Collection[str], name: str, default: str) -> str:
  """The value of the variant `name=value` among those chosen.

  Args:
    chosen: from `variants`.
    name: the name before the equals sign.
    default: the value if no such variant is chosen.

  Returns:
    The value.

  Raises:
    UsageError: two values are chosen.
  """
  found = exclusive(chosen, [x for x in chosen if x.startswith(f"{name}=")])
  return found.partition("=")[2] or default


def exclusive(chosen: Collection[str], names: Collection[str]) -> str:
  """The one variant of several that exclude each other.

  Args:
    chosen: from `variants`.
    names: the variants that cannot be combined.

  Returns:
    The name; empty if none is chosen.

  Raises:
    UsageError: more than one is chosen.
  """
  found = sorted(set(chosen) & set(names))
  if len(found) > 1:
    raise UsageError(
      f"config variants {' and '.join(found)} exclude each other: choose one"
    )
  return found[0] if found else ""


def term_variants() -> dict[str, str]:
  """The purpose of the variant of each equivariance term, by its name.

  The default terms need no variant.
  """
  return {
    name: f"the term {name}, no rotations predicted"
    for name in parts.TERM.names()
    if name not in Config.terms
  }


def use_term(
  config: ml_collections.ConfigDict, chosen: Collection[str]
) -> ml_collections.ConfigDict:
  """Replaces a recipe's terms by the term of a variant, if one is chosen.

  This drops the settings of the recipe's own terms and of views that only these
  terms use.

  Args:
    config: a recipe from `base`; changed in place.
    chosen: from `variants`; may hold one of `term_variants`.

  Returns:
    The recipe.

  Raises:
    UsageError: two terms are chosen, or one and `baseline`.
  """
  own = term_variants()
  name = exclusive(chosen, [*own, "baseline"])
  if name in own:
    term, method = parts.TERM.find(name), parts.METHOD.find(config.method)
    for other in map(parts.TERM.find, config.terms):
      del config[other.section]
      for view in {*other.views} - {*term.views, *method.views}:
        del config.views[view]
    config.terms = (name,)
    config[term.section] = parsing.base(terms=(name,))[term.section]
  return config
