"""Calls hooks of methods and terms; a failure names the part and the hook."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from essl_jax.augment import View, ViewRequest
from essl_jax.errors import UsageError, told


def ask(part: Any, hook: str, *arguments: Any, **options: Any) -> Any:
  """Calls a hook of a part, which may be a user's own code.

  Args:
    part: a method or a term.
    hook: the name of one of its functions.
    *arguments: of the function.
    **options: likewise.

  Returns:
    What the function returns.

  Raises:
    UsageError: the function fails; the message names it and the part.
  """
  with told(f"{type(part).__name__}.{hook}"):
    return getattr(part, hook)(*arguments, **options)


def make_heads(part: Any, **common: Any) -> Mapping[str, nn.Module]:
  """The heads of a part; see `Method.make_heads`."""
  made = ask(part, "make_heads", **common)
  heads = made.values() if isinstance(made, Mapping) else [made]
  if not all(isinstance(head, nn.Module) for head in heads):
    raise UsageError(
      f"{type(part).__name__}.make_heads must return a dict of Flax modules by"
      f" name, and returns {made!r:.80}"
    )
  return made


def requests(part: Any, views: Any) -> list[ViewRequest]:
  """The views that a part asks for; see `Method.requests`."""
  found = ask(part, "requests", views)
  is_list = isinstance(found, (list, tuple))
  if not is_list or not all(
    isinstance(x, ViewRequest) and isinstance(x.view, View) for x in found
  ):
    raise UsageError(
      f"{type(part).__name__}.requests must return a list of ViewRequests, and"
      f" returns {found!r:.80}"
    )
  return list(found)
