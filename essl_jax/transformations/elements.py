"""Single transformations of images [N, H, W, C], uint8 or in [0, 1]."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as PIL's L


def identity(images: jax.Array) -> jax.Array:
  """Returns the images unchanged."""
  return images


def quarter_turns(k: int) -> Callable[[jax.Array], jax.Array]:
  """Rotates counter-clockwise by k quarter turns."""
  return lambda images: jnp.rot90(images, k, axes=(1, 2))


def flip(*axes: int) -> Callable[[jax.Array], jax.Array]:
  """Mirrors along axes: 1 is top to bottom, 2 left to right."""
  return lambda images: jnp.flip(images, axes)


def half_shift(*axes: int) -> Callable[[jax.Array], jax.Array]:
  """Shifts cyclically by half the side along axes, so that halves swap."""

  def shift(images: jax.Array) -> jax.Array:
    _check_even(images, "shifted by half")
    return jnp.roll(images, [images.shape[axis] // 2 for axis in axes], axes)

  return shift


def permute_quadrants(
  order: Sequence[int],
) -> Callable[[jax.Array], jax.Array]:
  """Moves quadrant `order[q]` to quadrant q, counted row by row."""

  def permute(images: jax.Array) -> jax.Array:
    _check_even(images, "cut into quadrants")
    halves = jnp.split(images, 2, axis=1)
    quadrants = [x for half in halves for x in jnp.split(half, 2, axis=2)]
    top, bottom = (
      jnp.concatenate([quadrants[i] for i in row], axis=2)
      for row in (order[:2], order[2:])
    )
    return jnp.concatenate([top, bottom], axis=1)

  return permute


def to_grayscale(images: jax.Array) -> jax.Array:
  """Converts to ITU-R 601 gray with three equal channels."""
  if images.shape[-1] != 3:
    raise ValueError(
      f"images must have three channels to become gray, got {images.shape}"
    )

  def gray(images: jax.Array) -> jax.Array:
    luma = jnp.sum(images * _LUMA.reshape(1, 1, 1, 3), axis=-1, keepdims=True)
    return jnp.broadcast_to(luma, images.shape)

  return _in_unit_range(gray, images)


def invert(images: jax.Array) -> jax.Array:
  """Inverts the images: white becomes black."""
  if images.dtype == jnp.uint8:
    return 255 - images
  inputs.check_floating("images that are not uint8", images)
  advice = ": divide 0 to 255 by 255"
  inputs.check_range("images to be inverted", images, 0, 1, advice)
  return 1 - images


def gaussian_blur(size: int) -> Callable[[jax.Array], jax.Array]:
  """Blurs with a Gaussian kernel of `size` x `size` pixels.

  Reflects the border. The standard deviation follows from the size, as in
  OpenCV and torchvision: 0.3 (size / 2 - 1.5) + 0.8 pixels.
  """
  sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
  offsets = np.arange(size) - size // 2
  weights = np.exp(-(offsets**2) / (2 * sigma**2))
  weights /= weights.sum()

  def blur(images: jax.Array) -> jax.Array:
    for axis in (1, 2):
      pads = [(0, 0)] * 4
      pads[axis] = (size // 2, size // 2)
      padded = jnp.pad(images, pads, mode="reflect")
      parts = (
        jax.lax.slice_in_dim(padded, i, i + images.shape[axis], axis=axis)
        for i in range(size)
      )
      images = sum(
        (float(w) * x for w, x in zip(weights, parts, strict=True)),
        jnp.zeros_like(images),
      )
    return images

  return lambda images: _in_unit_range(blur, images)


def _check_even(images: jax.Array, done: str) -> None:
  if images.shape[1] % 2 or images.shape[2] % 2:
    raise ValueError(
      f"images must have even sides to be {done}, got shape {images.shape}"
    )


def _in_unit_range(
  function: Callable[[jax.Array], jax.Array], images: jax.Array
) -> jax.Array:
  """Applies a function in at least 32 bits and restores the images' dtype.

  Rounds results for uint8 images to whole levels.

  Raises:
    ValueError: the images are neither uint8 nor floating.
  """
  if images.dtype == jnp.uint8:
    levels = function(images.astype(jnp.float32))
    return jnp.round(levels).astype(jnp.uint8)
  inputs.check_floating("images that are not uint8", images)
  wide = jnp.promote_types(images.dtype, jnp.float32)
  return function(images.astype(wide)).astype(images.dtype)
