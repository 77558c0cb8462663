"""Colour operations, single and as a random jitter."""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs
from essl_jax.augment.arrays import (
  Planes,
  as_float,
  per_image,
  split_planes,
  stack_planes,
  through,
)

_CONTRAST, _SATURATION, _HUE = 1, 2, 3
_FACTORS = (0.0, float(np.finfo(np.float32).max))
_TURNS = (-0.5, 0.5)
_COUNTED = 2**23  # number of pixels whose levels int32 can sum


def _gray(planes: Planes) -> jax.Array:
  """ITU-R 601 luma, as PIL's mode L."""
  return 0.299 * planes[0] + 0.587 * planes[1] + 0.114 * planes[2]


def _blend(planes: Planes, target: Any, factor: jax.Array) -> Planes:
  """Computes `factor * planes + (1 - factor) * target`, clipped to [0, 1]."""
  red, green, blue = (
    jnp.clip(factor * plane + (1 - factor) * target, 0, 1) for plane in planes
  )
  return red, green, blue


def _mean(plane: jax.Array) -> jax.Array:
  """Computes the mean `[N, 1, 1]`, rounded to grey levels as PIL's contrast."""
  # Integers have the same sum in any order, whatever the batch's shape.
  levels = jnp.round(plane * 255).astype(jnp.int32)
  pixels = plane.shape[1] * plane.shape[2]
  if pixels < _COUNTED:
    total = jnp.sum(levels, axis=(1, 2), keepdims=True).astype(jnp.float32)
  else:
    high, low = jnp.divmod(jnp.sum(levels, axis=2, keepdims=True), 256)
    high, low = (
      jnp.sum(x, axis=1, keepdims=True).astype(jnp.float32) for x in (high, low)
    )
    total = 256 * high + low
  whole = jnp.floor(total / pixels + 0.5) / 255
  return through(whole, jnp.mean(plane, axis=(1, 2), keepdims=True))


def _levels(plane: jax.Array) -> jax.Array:
  """Converts to grey levels 0 to 255, exact integers if the image was uint8."""
  levels = plane * 255
  whole = jnp.round(levels)
  near = jnp.abs(levels - whole) < 1e-3
  return through(jnp.where(near, whole, levels), levels)


def _turn_hue(planes: Planes, turns: jax.Array) -> Planes:
  """Adds `turns` to the hue in PIL's HSV, which truncates to eight bits."""
  red, green, blue = (_levels(plane) for plane in planes)
  high = jnp.maximum(jnp.maximum(red, green), blue)
  low = jnp.minimum(jnp.minimum(red, green), blue)
  divisor = jnp.where(high > low, high - low, 1)
  from_red = (high - red) / divisor
  from_green = (high - green) / divisor
  from_blue = (high - blue) / divisor
  hue = jnp.where(  # In sixths of a turn: red 0, green 2, blue 4.
    red == high,
    jnp.where(green == low, from_blue - 1, 1 - from_green),
    jnp.where(
      green == high,
      jnp.where(red == low, 3 - from_blue, 1 + from_red),
      jnp.where(red == low, 3 + from_green, 5 - from_red),
    ),
  )
  # XLA's division may be off by one bit, and truncation would amplify it.
  sixth = hue / 6
  hue = sixth + ((hue - 4 * sixth) - 2 * sixth) / 6
  hue = jnp.where(hue < 0, hue + 1, hue) * 255
  steps = jnp.asarray(turns, jnp.float32) * 255
  hue = through(jnp.floor(hue), hue) + through(jnp.trunc(steps), steps)
  # PIL adds in uint8, so its circle has 256 steps, one more than a turn.
  hue = (hue - 256 * jnp.floor(hue / 256)) * (6 / 255)
  saturation = (high - low) / jnp.where(high > 0, high, 1) * 255
  saturation = through(jnp.floor(saturation), saturation) / 255
  high = high / 255

  def channel(peak: float) -> jax.Array:
    offset = hue - peak
    offset = jnp.abs(offset - 6 * jnp.round(offset / 6))
    return high - high * saturation * jnp.clip(offset - 1, 0, 1)

  return channel(0.0), channel(2.0), channel(4.0)


@inputs.any_sharding(by_example=True)
def adjust_brightness(images: chex.Array, factor: Any) -> jax.Array:
  """Multiplies by `factor` and clips: 0 is black, 1 the image itself."""
  images = as_float(images)
  factor = per_image(factor, images, "factor", _FACTORS)
  return stack_planes(_blend(split_planes(images), 0.0, factor))


@inputs.any_sharding(by_example=True)
def adjust_contrast(images: chex.Array, factor: Any) -> jax.Array:
  """Blends with the mean of the gray image: 0 is flat, 1 the image itself."""
  images = as_float(images)
  factor = per_image(factor, images, "factor", _FACTORS)
  planes = split_planes(images)
  return stack_planes(_blend(planes, _mean(_gray(planes)), factor))


@inputs.any_sharding(by_example=True)
def adjust_saturation(images: chex.Array, factor: Any) -> jax.Array:
  """Blends with the gray image: 0 is gray, 1 the image itself."""
  images = as_float(images)
  factor = per_image(factor, images, "factor", _FACTORS)
  planes = split_planes(images)
  return stack_planes(_blend(planes, _gray(planes), factor))


@inputs.any_sharding(by_example=True)
def adjust_hue(images: chex.Array, factor: Any) -> jax.Array:
  """Turns the hue by `factor` turns, -0.5 to 0.5, in PIL's eight-bit HSV.

  The gradient ignores the truncation to eight bits.
  """
  images = as_float(images)
  factor = per_image(factor, images, "factor", _TURNS)
  return stack_planes(_turn_hue(split_planes(images), factor))


@inputs.any_sharding(by_example=True)
def to_grayscale(images: chex.Array) -> jax.Array:
  """The ITU-R 601 gray image, three times."""
  return stack_planes([_gray(split_planes(as_float(images)))] * 3)


@inputs.any_sharding(by_example=True)
def solarize(images: chex.Array, threshold: Any = 128 / 255) -> jax.Array:
  """Inverts the values at or above `threshold`."""
  images = as_float(images)
  threshold = per_image(threshold, images, "threshold", (0, 1))[..., None]
  return jnp.where(images >= threshold, 1 - images, images)


@inputs.any_sharding(by_example=True)
def normalize(
  images: chex.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """Subtracts `mean` and divides by `std`, one value per channel."""
  images = as_float(images)
  channels = images.shape[-1]
  center, scale = (np.asarray(x, np.float32) for x in (mean, std))
  if center.shape != (channels,) or scale.shape != (channels,):
    raise ValueError(
      f"mean and std must have one number for each of the {channels} channels"
      f" of {images.shape}, got {mean} and {std}"
    )
  if not np.isfinite([center, scale]).all() or not (scale > 0).all():
    raise ValueError(
      f"mean must be finite and std above 0, got {mean} and {std}"
    )
  center = center.reshape(1, 1, 1, channels)
  # With the batch's shape, divisions may change in the last bit, products not.
  factor = (np.float32(1) / scale).reshape(1, 1, 1, channels)
  return (images - center) * factor


def _ranks(draws: Sequence[jax.Array]) -> list[jax.Array]:
  """Ranks each draw `[N]` among all, without a sort; ties by index."""
  ranks = []
  for i, draw in enumerate(draws):
    start = jnp.zeros(draw.shape, jnp.int32)
    earlier = [other <= draw for other in draws[:i]]
    earlier += [other < draw for other in draws[i + 1 :]]
    ranks.append(sum((x.astype(jnp.int32) for x in earlier), start))
  return ranks


def jitter_of(
  draws: jax.Array, strengths: Sequence[float]
) -> tuple[list[jax.Array], list[jax.Array]]:
  """Converts random numbers to the factors and the order of a jitter.

  Args:
    draws: `[8, N]` uniform in [0, 1): four factors, then four ranks.
    strengths: strengths of brightness, contrast, saturation and hue; those at 0
      are left out.

  Returns:
    Four factors, float32 `[N]`; one that is left out is 1, or 0 for hue. Their
    four positions in the order, int32 `[N]` from 0; one that is left out is -1.
  """
  active = [i for i in range(4) if strengths[i] > 0]
  rows = draws.shape[1:]
  factors = [jnp.full(rows, i != _HUE, jnp.float32) for i in range(4)]
  places = [jnp.full(rows, -1, jnp.int32)] * 4
  for i, rank in zip(
    active, _ranks([draws[4 + i] for i in active]), strict=True
  ):
    center = 0 if i == _HUE else 1
    low, high = center - strengths[i], center + strengths[i]
    low = low if i == _HUE else max(0, low)
    factors[i], places[i] = low + (high - low) * draws[i], rank
  return factors, places


def color_jitter(
  images: jax.Array, draws: jax.Array, strengths: Sequence[float]
) -> jax.Array:
  """Jitters brightness, contrast, saturation, hue in random order per image.

  Args:
    images: `[N, H, W, 3]`, float32.
    draws: as in `jitter_of`.
    strengths: as in `jitter_of`.

  Returns:
    `[N, H, W, 3]`, float32.
  """
  return jitter(images, *jitter_of(draws, strengths), strengths)


def jitter(
  images: jax.Array,
  factors: Sequence[jax.Array],
  places: Sequence[jax.Array],
  strengths: Sequence[float],
) -> jax.Array:
  """Jitters brightness, contrast, saturation, hue by given factors and order.

  Args:
    images: `[N, H, W, 3]`, float32.
    factors: four factors, `[N]` each; see `jitter_of`.
    places: their positions in the order, int32 `[N]` each.
    strengths: four strengths; those at 0 are left out.

  Returns:
    `[N, H, W, 3]`, float32.
  """
  active = [i for i in range(4) if strengths[i] > 0]
  factors = [per_image(x, images, "factor") for x in factors]
  places = [per_image(x, images, "place") for x in places]

  def take_turn(turn: jax.Array, planes: Planes) -> Planes:
    gray = _gray(planes)
    factor, target = jnp.ones_like(gray[:, :1, :1]), jnp.zeros_like(gray)
    for i in active:
      now = places[i] == turn
      if i == _CONTRAST:
        target = jnp.where(now, _mean(gray), target)
      if i == _SATURATION:
        target = jnp.where(now, gray, target)
      if i != _HUE:
        factor = jnp.where(now, factors[i], factor)
    after = _blend(planes, target, factor)
    if _HUE not in active:
      return after
    now, turned = places[_HUE] == turn, _turn_hue(planes, factors[_HUE])
    return jax.tree.map(lambda t, a: jnp.where(now, t, a), turned, after)

  # If unrolled, XLA's fusions on CPU recompute every turn for each pixel.
  planes = jax.lax.fori_loop(0, len(active), take_turn, split_planes(images))
  return stack_planes(planes)
