"""Views that a method could draw but, with its fields, does not."""

from collections.abc import Collection, Sequence
import dataclasses
from typing import Any

from essl_jax.config import fields
from essl_jax.config.config import Config
from essl_jax.errors import UsageError

_ALWAYS = {"first", "second"}  # evaluations read them


def only(config: Config, used: Sequence[Any], given: Collection[str]) -> Config:
  """Resets the views that the method's fields leave out to their defaults.

  Args:
    config: with values that were checked one by one.
    used: the config's method, then its terms.
    given: dotted names of the fields that flags have set.

  Returns:
    The config.

  Raises:
    UsageError: a flag sets a field of such a view. Recipes may: they set the
      fields of all views together.
  """
  drawn = {name for part in used for name in part.views}
  unused = set(type(used[0]).views) - drawn - _ALWAYS
  known = fields.of(type(config.views))
  for name in unused:
    for field in given:
      if field.startswith(f"views.{name}."):
        raise UsageError(
          f"config.{field}: method {config.method} draws no such view: set"
          f" config.{name}_views to their number, or leave it unset"
        )
  if not unused:
    return config
  views = {name: known[name].default for name in unused}
  views = dataclasses.replace(config.views, **views)
  return dataclasses.replace(config, views=views)
