"""Encodes the parameters of views as vectors, the input of heads."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from essl_jax import transformations
from essl_jax.augment import DrawnView, View, ViewParameters
from essl_jax.augment.parameters import JITTERS, element_names
from essl_jax.equivariance.differences import (
  differences,
  drawn_by,
  largest_jitter,
)

_NOTHING = (
  "the views draw nothing in which they could differ: let them crop, flip,"
  " jitter or blur"
)


def as_vector(drawn: DrawnView, views: Sequence[View]) -> jax.Array:
  """Encodes what was done to N images as rows of numbers of magnitude about 1.

  An augmentation that none of the views draws has no columns.

  Args:
    drawn: a view.
    views: how all views are drawn whose rows a head takes.

  Returns:
    float32 [N, P]: the window in parts of the image; flags for the flip, the
    jitter, grayscale, the blur and solarize; jitters in parts of their
    strength, and their places in the order from -1 to 1, 0 without jitter;
    sigma in parts of the largest; and for each finite group a flag for each
    element.

  Raises:
    ValueError: nothing is drawn that would have a column.
  """
  parameters = drawn.parameters
  found = []
  if not all(view.is_whole for view in views):
    found.append(parameters.relative_crop)
  if any(view.flip for view in views):
    found.append(_columns(parameters.flip))
  if any(view.is_jittered for view in views):
    found.append(_jitter(parameters, views))
  if any(view.grayscale for view in views):
    found.append(_columns(parameters.grayscale))
  if any(view.blur for view in views):
    most = max(view.blur_sigma[1] for view in views) or 1
    found.append(_columns(parameters.blurred, parameters.sigma / most))
  if any(view.solarize for view in views):
    found.append(_columns(parameters.solarized))
  for name, group in _groups(views, drawn.extra).items():
    none = jnp.zeros_like(parameters.image_size[:, 0])
    element = parameters.elements.get(name, none)
    found.append(jax.nn.one_hot(element, group.num_classes))
  if not found:
    raise ValueError(_NOTHING)
  return jnp.concatenate(found, axis=1)


def _columns(*values: jax.Array) -> jax.Array:
  return jnp.stack([jnp.asarray(x, jnp.float32) for x in values], axis=1)


def _jitter(parameters: ViewParameters, views: Sequence[View]) -> jax.Array:
  """A flag, the strengths that were drawn, and their order."""
  strengths = largest_jitter(views)
  changes = [
    (getattr(parameters, name) - (name != "hue")) / (strength or 1)
    for name, strength in zip(JITTERS, strengths, strict=True)
  ]
  middle = (len(JITTERS) - 1) / 2
  jittered = jnp.asarray(parameters.jittered)[:, None]
  places = (parameters.jitter_order - middle) / middle
  return jnp.concatenate(
    [
      _columns(parameters.jittered, *changes),
      jnp.where(jittered, places, 0),
    ],
    axis=1,
  )


def as_difference(
  first: DrawnView, second: DrawnView, views: Sequence[View]
) -> jax.Array:
  """Encodes how two views of N images differ, in numbers of magnitude about 1.

  An augmentation that none of the views draws has no columns.

  Args:
    first: a view.
    second: another view of the same images.
    views: how all views are drawn whose differences a head takes.

  Returns:
    float32 [N, 1 + P]: ones, which give a linear map of the rows an offset,
    then the `differences` from the first to the second; `rot` becomes a flag
    for each number of turns.

  Raises:
    ValueError: nothing is drawn in which the views could differ.
  """
  names = drawn_by(views, first.extra)
  if not names:
    raise ValueError(_NOTHING)
  found = differences(
    first.parameters, second.parameters, jitter=largest_jitter(views)
  )
  if "rot" in names:
    found["rot"] = jax.nn.one_hot(found["rot"], 4)
  ones = jnp.ones((len(found["crop"]), 1))
  columns = [found[name].reshape(len(ones), -1) for name in sorted(names)]
  return jnp.concatenate([ones, *columns], axis=1)


def _groups(
  views: Sequence[View], extra: str | None
) -> dict[str, transformations.TransformationGroup]:
  """Finite groups, by their names in `ViewParameters.elements`."""
  names: dict[str, str] = {}
  for view in views:
    names |= element_names(view.groups, extra)
  found = {k: transformations.find_augmentation(x) for k, x in names.items()}
  kind = transformations.TransformationGroup
  return {k: x for k, x in found.items() if isinstance(x, kind)}
