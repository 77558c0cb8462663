"""Random keys of a step's views, and the draws made with them."""

import functools
from typing import Any
import zlib

import jax
import jax.numpy as jnp

from essl_jax import augment
from essl_jax.augment import ViewRequest
from essl_jax.losses import common

# The draws of these views use parts 0 to 2 of an image's key; the transform of
# the third uses part 3.
_NUMBERED = ("first", "second", "transformed")


def image_keys(
  key: jax.Array,
  step: jax.Array,
  n: int,
  axis_name: str | None = None,
  shared_by: int = 1,
) -> jax.Array:
  """One random key per image of a step, [n], from the key of a training.

  Image i of the global batch gets the same key on any number of devices. With
  `shared_by`, that many consecutive images share the key of the first of them.
  """
  key, first = jax.random.fold_in(key, step), common.first_row(n, axis_name)
  if shared_by == 1:
    return augment.keys_by_place(key, n, first)
  places = first + jnp.arange(n)
  return jax.vmap(jax.random.fold_in, (None, 0))(
    key, places - places % shared_by
  )


def draw(
  request: ViewRequest, batch: dict[str, jax.Array], keys: list[jax.Array]
) -> tuple[jax.Array, augment.ViewParameters | None]:
  """Makes all draws of a view.

  Args:
    request: for the view.
    batch: one device's; see `views.make_views`.
    keys: one per image, [N], for each draw.

  Returns:
    Images [draws N, H, W, C] in [0, 1], and their parameters if the request
    asks for them.

  Raises:
    ValueError: parameters are asked for, the host has cropped, and the batch
      does not hold its windows.
  """
  crop = "image" in batch

  def run(keys: jax.Array, images: jax.Array) -> Any:
    draw = functools.partial(
      augment.random_view,
      keys,
      images,
      request.view,
      crop=crop,
      extra=request.extra,
      normalized=False,
    )
    if request.parameters:
      return draw(return_parameters=True)
    return draw(), None

  if request.draws == 1:
    drawn = run(keys[0], batch["image" if crop else request.draw_names[0]])
  else:
    images = (
      batch["image"]
      if crop
      else jnp.stack([batch[name] for name in request.draw_names])
    )
    drawn = jax.vmap(run, (0, None if crop else 0))(jnp.stack(keys), images)
    drawn = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), drawn)
  images, parameters = drawn
  if parameters is not None and not crop:
    parameters = _with_windows(parameters, request, batch)
  return images, parameters


def _with_windows(
  parameters: augment.ViewParameters,
  request: ViewRequest,
  batch: dict[str, jax.Array],
) -> augment.ViewParameters:
  """Parameters with the windows that the host has cropped."""
  names = list(map(augment.window_name, request.draw_names))
  for name in names:
    if name not in batch:
      raise ValueError(
        f"parameters of the view {request.name!r} need {name!r} in a batch"
        f" that the host crops; the batch has {', '.join(batch)}"
      )
  windows = jnp.concatenate([batch[name] for name in names])
  return parameters.replace(crop=windows[:, :4], image_size=windows[:, 4:])


def draw_keys(keys: jax.Array, purposes: jax.Array, name: str) -> jax.Array:
  """Keys [N] of a view's draw; they do not depend on the other views."""
  if name in _NUMBERED:
    return purposes[:, _NUMBERED.index(name)]
  return _keys_by_name(keys, f"draw of {name}")


def transform_keys(
  keys: jax.Array, purposes: jax.Array, name: str
) -> jax.Array:
  """Keys [N] of a view's transform; see `draw_keys`."""
  if name == _NUMBERED[-1]:
    return purposes[:, len(_NUMBERED)]
  return _keys_by_name(keys, f"transform of {name}")


def _keys_by_name(keys: jax.Array, name: str) -> jax.Array:
  return augment.fold_each(keys, zlib.crc32(name.encode()))


def copy_keys(keys: jax.Array, name: str, rows: int) -> jax.Array:
  """One key per row of a view, independent of other draws for its image.

  Args:
    keys: one per image, [N].
    name: of the view.
    rows: K N, for K copies of all images.

  Returns:
    Keys [K N], in the order of the copies.
  """
  own, copies = _keys_by_name(keys, name), jnp.arange(rows // len(keys))
  return jax.vmap(augment.fold_each, (None, 0))(own, copies).reshape(rows)
