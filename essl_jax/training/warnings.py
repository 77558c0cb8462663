"""Warns of configs that train, but probably not as meant."""

from collections.abc import Iterable
import dataclasses
from typing import Any

from essl_jax import config as config_lib
from essl_jax import transformations
from essl_jax.training import hooks, resolution

_FEW_PATCHES = 4


def find(config: Any, parts: Iterable[Any], encoder: Any = None) -> list[str]:
  """Warns of views that undo a prediction, and of view sizes.

  Args:
    config: a checked `config.Config`.
    parts: the method, then the active terms.
    encoder: has an attribute `patch` if it cuts images into patches.

  Returns:
    A line for each warning; it says why and what to do.
  """
  if not config.epochs:
    return []
  parts = tuple(parts)
  found = [*_contradictions(config, *parts), *_few(config, parts, encoder)]
  return list(dict.fromkeys([*found, *_large(config, parts)]))


def without_labels(config: Any, labelled: Any) -> list[str]:
  """Says which evaluations are left out because no image has a label.

  Args:
    config: a checked `config.Config`.
    labelled: the source of evaluations.

  Returns:
    A line, or none.
  """
  out = [
    x.name
    for x in config_lib.evaluations(config)
    if x.needs_labels and config.mode in x.modes
  ]
  if labelled.num_classes or not out:
    return []
  return [
    f"the images have no labels: {', '.join(out)} left out;"
    " --config.data.labelled_dir=DIR names a folder of labelled ones,"
    " DIR/<split>/<class>/*"
  ]


def _large(config: Any, parts: Iterable[Any]) -> list[str]:
  """Warns of a view with several draws that is as large as the first."""
  return [
    f"config.views.{request.name} of {request.view.size} pixels is drawn"
    f" {request.draws} times and is no smaller than config.views.first: set"
    f" smaller config.views.{request.name}.size and scale"
    for part in parts
    for request in hooks.requests(part, config.views)
    if request.draws > 1 and request.view.size >= config.views.first.size
  ]


def _few(config: Any, parts: Iterable[Any], encoder: Any) -> list[str]:
  """Warns of views with so few patches that attention has little to do."""
  patch = getattr(encoder, "patch", None)
  if not isinstance(patch, int):
    return []
  names = dict.fromkeys(name for part in parts for name in part.views)
  stages = resolution.stages(config.views, config.epochs)
  found = []
  for name in names:
    side = min(getattr(views, name).size for _, views in stages)
    count = (side // patch) ** 2
    if count <= _FEW_PATCHES:
      found.append(
        f"config.views.{name} of {side} pixels has {count} patch"
        f"{'es' if count > 1 else ''} of {patch}: give larger views or a"
        " smaller config.encoder.patch"
      )
  return found


def _contradictions(config: Any, method: Any, *terms: Any) -> list[str]:
  """Warns of transformations that are both predicted and drawn at random."""
  found = []
  for term in terms:
    for group in term.groups:
      for name in resolution.by_name(config.views):
        if name not in (*method.views, *term.views):
          continue
        why = (
          "so part of what was applied is unknown and the prediction is partly"
          " left to chance"
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
