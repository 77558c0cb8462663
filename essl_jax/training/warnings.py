"""Warnings of configs that train, but most likely not as meant."""

from collections.abc import Iterable
import dataclasses
from typing import Any

from essl_jax import transformations
from essl_jax.training import resolution


def find(config: Any, parts: Iterable[Any]) -> list[str]:
  """Warns of transformations that are predicted and drawn at random at once.

  Args:
    config: a checked `config.Config`.
    parts: the method, then the active terms.

  Returns:
    A line for each, which says why and what to do.
  """
  if not config.epochs:
    return []
  method, *terms = parts
  found = []
  for term in terms:
    for group in term.groups:
      for name in resolution.by_name(config.views):
        if name not in (*method.views, *term.views):
          continue
        why = (
          "so nothing tells which element was applied and the prediction is"
          " partly left to chance"
          if name in term.views
          else "so the SSL loss asks the encoder to forget what the prediction"
          " asks it to keep"
        )
        found += [
          f"{field} applies elements of {group.name} at random and"
          f" config.{term.section} predicts them, {why}: leave one out"
          for field in _drawn_at_random(config.views, name, group)
        ]
  return found


def _drawn_at_random(views: Any, name: str, group: Any) -> list[str]:
  """The config fields by which a view draws elements of a group."""
  view = getattr(views, name)
  path = f"config.views.{name}"
  there = {field.name for field in dataclasses.fields(view)}
  fields = [
    f"{path}.{field}"
    for field in group.drawn_by
    if field in there and getattr(view, field) > 0
  ]
  find_group = transformations.find_augmentation
  overlap = transformations.overlap
  if any(overlap(group, find_group(drawn)) for drawn in view.groups):
    fields.append(f"{path}.groups")
  is_extra = name == "first" and views.extra is not None
  if is_extra and overlap(group, find_group(views.extra)):
    fields.append("config.views.extra")
  return fields
