"""Gaussian blur by box blurs, as PIL computes it."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp

from essl_jax import inputs
from essl_jax.augment.arrays import as_float, per_image, through

_MOST = 1000  # pixels; each one adds an operation


def _box_blur(
  images: jax.Array, radius: jax.Array, taps: int, axis: int
) -> jax.Array:
  """Averages `2 * radius + 1` pixels; `radius` `[N, 1, 1, 1]` is fractional."""
  pads = [(taps, taps) if i == axis else (0, 0) for i in range(4)]
  padded = jnp.pad(images, pads, mode="edge")
  total = images
  for tap in range(1, taps + 1):
    for start in (taps - tap, taps + tap):
      shifted = jax.lax.slice_in_dim(
        padded, start, start + images.shape[axis], axis=axis
      )
      total += jnp.clip(radius + 1 - tap, 0, 1) * shifted
  return total / (2 * radius + 1)


@inputs.any_sharding(by_example=True)
def gaussian_blur(
  images: chex.Array, sigma: Any, *, max_sigma: float = 16.0
) -> jax.Array:
  """Blurs as PIL's GaussianBlur, whose `radius` is `sigma` in pixels.

  Applies three box blurs of fractional radius per axis (Gwosdek et al.,
  "Theoretical Foundations of Gaussian Convolution by Extended Box Filtering",
  2011). Each repeats the border and rounds to eight bits; the gradient ignores
  the rounding.

  Args:
    images: `[N, H, W, 3]`.
    sigma: standard deviation in pixels, scalar or `[N]`.
    max_sigma: the largest `sigma`, at most 1000; it sets the kernel size and
      thus the cost. A traced `sigma` above it is clipped to `max_sigma`.

  Returns:
    `[N, H, W, 3]`, float32.

  Raises:
    ValueError: a known `sigma` is negative or above `max_sigma`, or `max_sigma`
      is not in [0, 1000].
  """
  images = as_float(images)
  if not 0 <= max_sigma <= _MOST:
    raise ValueError(f"max_sigma must be in [0, {_MOST}], got {max_sigma}")
  values = inputs.known_numbers("sigma", sigma)
  if values is not None and values.size:
    largest = float(values.max())
    if not (values.min() >= 0 and largest <= max_sigma):
      raise ValueError(
        f"sigma must be in [0, max_sigma={max_sigma:g}], got {values.min()} to"
        f" {largest}"
      )
    max_sigma = largest
  taps = math.floor((math.sqrt(4 * max_sigma**2 + 1) - 1) / 2) + 1
  sigma = per_image(sigma, images, "sigma").astype(jnp.float32)[..., None]
  variance = jnp.clip(sigma, 0, max_sigma) ** 2
  whole = jnp.floor((jnp.sqrt(4 * variance + 1) - 1) / 2)
  part = (2 * whole + 1) * (whole * (whole + 1) - variance)
  radius = whole + part / (2 * variance - 6 * (whole + 1) ** 2)
  for axis in (2, 2, 2, 1, 1, 1):
    levels = _box_blur(images, radius, taps, axis) * 255
    # Rounds down a little more often, because PIL truncates its weights.
    images = through(jnp.round(levels - 2e-4), levels) / 255
  return images
