"""Array layouts, gradients and random draws shared by all augmentations."""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from essl_jax import inputs

_ROUNDING = 1e-3  # how far resized images may exceed [0, 1]

Planes = tuple[jax.Array, jax.Array, jax.Array]


def as_float(images: chex.Array) -> jax.Array:
  """Converts images `[N, H, W, C]` to float32, dividing uint8 by 255.

  Raises:
    ValueError: another shape or dtype, or known values outside [0, 1].
  """
  given, images = images, jnp.asarray(images)
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise ValueError(f"images must be [N, H, W, 3 or 1], got {images.shape}")
  if 0 in images.shape[1:3]:
    raise ValueError(f"images must have pixels, got shape {images.shape}")
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f"images must be uint8 or floating, got {images.dtype}")
  advice = ": divide 0 to 255 by 255, and clip resized images"
  inputs.check_range("images", given, -_ROUNDING, 1 + _ROUNDING, advice)
  return images.astype(jnp.float32)


def per_image(
  value: Any,
  images: jax.Array,
  name: str,
  bounds: tuple[float, float] | None = None,
) -> jax.Array:
  """Broadcasts a scalar or `[N]` to `[N, 1, 1]`, to match planes `[N, H, W]`.

  Args:
    value: scalar or `[N]`.
    images: `[N, ...]`.
    name: what error messages call the value.
    bounds: smallest and largest number allowed; None for booleans.

  Raises:
    ValueError: another shape, or known values out of range.
  """
  inputs.known_numbers(name, value)
  if bounds:
    inputs.check_range(name, value, *bounds)
  value = jnp.asarray(value, jnp.float32 if bounds else None)
  if value.ndim > 1 or (value.ndim and value.shape[0] != images.shape[0]):
    raise ValueError(
      f"{name} must be a scalar or [{images.shape[0]}] for images "
      f"{images.shape}, got {value.shape}"
    )
  return jnp.broadcast_to(value, images.shape[:1])[:, None, None]


def split_planes(images: jax.Array) -> Planes:
  """Splits images into three planes `[N, H, W]`; ValueError for one channel."""
  if images.shape[-1] != 3:  # JAX would repeat the last channel
    raise ValueError(f"colours need three channels, got {images.shape}")
  return images[..., 0], images[..., 1], images[..., 2]


def stack_planes(planes: Sequence[jax.Array]) -> jax.Array:
  """Stacks three planes `[N, H, W]` into images `[N, H, W, 3]`."""
  return jnp.stack(planes, axis=-1)


def through(rounded: jax.Array, x: jax.Array) -> jax.Array:
  """Takes the value of `rounded` and the gradient of `x`."""
  return jax.lax.stop_gradient(rounded) + (x - jax.lax.stop_gradient(x))


def fold_each(keys: jax.Array, number: jax.typing.ArrayLike) -> jax.Array:
  """Derives N new keys from N keys, for the use with this number."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def uniform(keys: jax.Array, count: int) -> jax.Array:
  """Draws `[N, count]` in [0, 1), one row per key."""
  draw = lambda key: jax.random.uniform(key, (count,), jnp.float32)
  return jax.vmap(draw)(keys)
