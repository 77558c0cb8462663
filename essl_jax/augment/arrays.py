"""Array layouts, gradients and random draws of all augmentations."""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from essl_jax import inputs

_ROUNDING = 1e-3  # beyond [0, 1], of images that were resized

Planes = tuple[jax.Array, jax.Array, jax.Array]


def as_float(images: chex.Array) -> jax.Array:
  """Float32 `[N, H, W, C]`, uint8 divided by 255; ValueError otherwise."""
  given, images = images, jnp.asarray(images)
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise ValueError(f"images must be [N, H, W, 3 or 1], got {images.shape}")
  if 0 in images.shape[1:3]:
    raise ValueError(f"images must have pixels, got shape {images.shape}")
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f"images must be uint8 or floating, got {images.dtype}")
  advice = ": divide 0 to 255 by 255, and clip what was resized"
  inputs.check_range("images", given, -_ROUNDING, 1 + _ROUNDING, advice)
  return images.astype(jnp.float32)


def per_image(
  value: Any,
  images: jax.Array,
  name: str,
  bounds: tuple[float, float] | None = None,
) -> jax.Array:
  """Lays a scalar or `[N]` out as `[N, 1, 1]`, to meet planes `[N, H, W]`.

  Args:
    value: scalar or `[N]`.
    images: `[N, ...]`.
    name: of the value.
    bounds: the smallest and the largest number; absent for booleans.

  Raises:
    ValueError: another shape, or known values out of range.
  """
  inputs.known_numbers(name, value)
  if bounds:
    inputs.check_range(name, value, *bounds)
  value = jnp.asarray(value, jnp.float32 if bounds else None)
  if value.ndim > 1 or (value.ndim and value.shape[0] != images.shape[0]):
    raise ValueError(
      f"{name} must be a scalar or [{images.shape[0]}] as images are "
      f"{images.shape}, got {value.shape}"
    )
  return jnp.broadcast_to(value, images.shape[:1])[:, None, None]


def split_planes(images: jax.Array) -> Planes:
  """The three channels `[N, H, W]`; ValueError for images of one."""
  if images.shape[-1] != 3:  # JAX would repeat the last channel
    raise ValueError(f"colours need three channels, got {images.shape}")
  return images[..., 0], images[..., 1], images[..., 2]


def stack_planes(planes: Sequence[jax.Array]) -> jax.Array:
  """Lays three planes `[N, H, W]` out as `[N, H, W, 3]`."""
  return jnp.stack(planes, axis=-1)


def through(rounded: jax.Array, x: jax.Array) -> jax.Array:
  """Takes the value of `rounded` and the gradient of `x`."""
  return jax.lax.stop_gradient(rounded) + (x - jax.lax.stop_gradient(x))


def fold_each(keys: jax.Array, number: jax.typing.ArrayLike) -> jax.Array:
  """Keys [N] for one more use of each of N keys, told by its number."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def uniform(keys: jax.Array, count: int) -> jax.Array:
  """Draws `[N, count]` in [0, 1), a row for each of `[N]` keys."""
  draw = lambda key: jax.random.uniform(key, (count,), jnp.float32)
  return jax.vmap(draw)(keys)
