"""Crops, resizing and flips, resampled as PIL does."""

from collections.abc import Callable, Sequence
import math
from numbers import Integral
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs
from essl_jax.augment.arrays import as_float, per_image, uniform


def _triangle(x: jax.Array) -> jax.Array:
  return jnp.maximum(1 - x, 0)


def _cubic(x: jax.Array) -> jax.Array:
  """Keys' cubic with a = -0.5, as in PIL; OpenCV and PyTorch use -0.75."""
  near = (1.5 * x - 2.5) * x * x + 1
  far = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


KERNELS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "bilinear": _triangle,
  "bicubic": _cubic,
}


def _resampling_matrix(
  start: jax.Array, extent: jax.Array, inputs: int, outputs: int, method: str
) -> jax.Array:
  """Computes `[N, outputs, inputs]` weights for `[start, start + extent)`."""
  start, extent = start[:, None, None], extent[:, None, None]
  scale = extent / outputs
  pixels = jnp.arange(inputs, dtype=jnp.float32)[None, None, :]
  steps = jnp.arange(outputs, dtype=jnp.float32)[None, :, None] + 0.5
  # A wider kernel antialiases images that shrink.
  distance = (pixels + 0.5 - start - steps * scale) / jnp.maximum(scale, 1)
  inside = (pixels >= jnp.floor(start)) & (pixels < jnp.ceil(start + extent))
  weights = jnp.where(inside, KERNELS[method](jnp.abs(distance)), 0)
  return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _matmul_axes(
  rows: jax.Array, columns: jax.Array, images: jax.Array, *, clip: bool
) -> jax.Array:
  """Multiplies widths by `columns`, then heights by `rows`, `[N, out, in]`."""
  # TensorFloat-32 or bfloat16 passes would cost up to one grey level.
  precision = jax.lax.Precision.HIGHEST
  for spec, matrix in (("nwx,nhxc->nhwc", columns), ("nvh,nhwc->nvwc", rows)):
    images = jnp.einsum(spec, matrix, images, precision=precision)
    images = jnp.clip(images, 0, 1) if clip else images
  return images


@inputs.any_sharding(by_example=True)
def resized_crop(
  images: chex.Array,
  boxes: chex.Array,
  size: int | tuple[int, int],
  method: str = "bilinear",
) -> jax.Array:
  """Crops a box from each image and resizes it, antialiased as PIL does.

  Only pixels inside the box are read, as if the crop were cut out first.

  Args:
    images: `[N, H, W, 3]`.
    boxes: `[N, 4]` top, left, height, width in pixels, integer or floating,
      inside the image.
    size: side of the square result, or (height, width).
    method: "bilinear" or "bicubic" (Keys, a = -0.5; clipped to [0, 1]).

  Returns:
    `[N, *size, 3]`, float32. NaN for output pixels of a traced box that see no
    pixel of the image.

  Raises:
    ValueError: wrong shapes, an unknown method, a size below 1, or a known box
      that is empty or leaves its image.
  """
  images, boxes = as_float(images), jnp.asarray(boxes, jnp.float32)
  if boxes.shape != (images.shape[0], 4):
    raise ValueError(
      f"boxes must be [{images.shape[0]}, 4] for images {images.shape}, "
      f"got {boxes.shape}"
    )
  if not isinstance(method, str) or method not in KERNELS:
    raise ValueError(
      f"method must be one of {', '.join(KERNELS)}, got {method!r}"
    )
  height, width = _sides(size)
  _check_boxes(boxes, images.shape)
  top, left, box_height, box_width = jnp.unstack(boxes, axis=1)
  rows = _resampling_matrix(top, box_height, images.shape[1], height, method)
  columns = _resampling_matrix(left, box_width, images.shape[2], width, method)
  return _matmul_axes(rows, columns, images, clip=method == "bicubic")


def _sides(size: Any) -> tuple[int, int]:
  """Returns height and width in pixels; ValueError for a wrong size."""
  sides = size if isinstance(size, tuple | list) else (size, size)
  if len(sides) != 2 or not all(isinstance(x, Integral) for x in sides):
    raise ValueError(f"size must be one whole number or two, got {size!r}")
  if min(sides) < 1:
    raise ValueError(f"size must be at least 1 pixel, got {size}")
  return int(sides[0]), int(sides[1])


def _check_boxes(boxes: chex.Array, shape: Sequence[int]) -> None:
  """Refuses known boxes that are empty or leave images [N, H, W, C]."""
  values = inputs.known(boxes)
  if values is None:
    return
  start, extent = values[:, :2], values[:, 2:]
  room = np.array(shape[1:3]) * (1 + 1e-6)  # float32 sums round
  fits = (extent > 0) & (start >= 0) & (start + extent <= room)
  if not (fits.all() and np.isfinite(values).all()):
    first = values[~fits.all(axis=1) | ~np.isfinite(values).all(axis=1)][0]
    raise ValueError(
      "boxes (top, left, height, width) must lie in images of"
      f" {shape[1]}x{shape[2]} pixels, got {first.tolist()}"
    )


@inputs.any_sharding(by_example=True)
def center_crop_resize(
  images: chex.Array, resize: int, size: int, method: str = "bicubic"
) -> jax.Array:
  """Resizes the shorter side to `resize`, then cuts `size` from the centre."""
  count, height, width = as_float(images).shape[:3]
  short = min(height, width)
  height, width = resize * height // short, resize * width // short
  if not 0 < size <= resize:
    raise ValueError(f"size must be in [1, resize={resize}], got {size}")
  whole = jnp.asarray([[0, 0, *images.shape[1:3]]], jnp.float32)
  boxes = jnp.broadcast_to(whole, (count, 4))
  images = resized_crop(images, boxes, (height, width), method)
  top, left = round((height - size) / 2), round((width - size) / 2)
  return images[:, top : top + size, left : left + size]


@inputs.any_sharding(by_example=True)
def sample_crop_boxes(
  key: chex.PRNGKey,
  n: int,
  image_shape: Sequence[int],
  scale: tuple[float, float],
  ratio: tuple[float, float],
) -> jax.Array:
  """Draws the boxes of torchvision's RandomResizedCrop.

  Tries ten uniform areas with log-uniform aspects, and places the first that
  fits uniformly. If none fits, it takes the largest central box of an allowed
  aspect. All tries are drawn at once, without a loop.

  Args:
    key: one key, expanded by `fold_in(key, i)`, or `[n]` keys.
    n: number of boxes.
    image_shape: (H, W, ...) in pixels.
    scale: smallest and largest area, as fractions of the image's.
    ratio: smallest and largest width / height.

  Returns:
    int32 `[n, 4]`: top, left, height, width.

  Raises:
    ValueError: not 0 < smallest <= largest, an area above 1, an image without
      pixels, or a wrong number of keys.
  """
  if min(image_shape[:2]) < 1:
    raise ValueError(f"images must have pixels, got shape {image_shape}")
  if not 0 < scale[0] <= scale[1] <= 1:
    raise ValueError(f"scale must be ascending in (0, 1], got {scale}")
  if not 0 < ratio[0] <= ratio[1] < math.inf:
    raise ValueError(f"ratio must be ascending, above 0, finite, got {ratio}")
  tries = 10
  height, width = image_shape[0], image_shape[1]
  draws = uniform(inputs.image_keys(key, n), 2 * tries + 2)
  area = scale[0] + (scale[1] - scale[0]) * draws[:, :tries]
  low, high = math.log(ratio[0]), math.log(ratio[1])
  aspect = jnp.exp(low + (high - low) * draws[:, tries : 2 * tries])
  widths = jnp.round(jnp.sqrt(height * width * area * aspect))
  heights = jnp.round(jnp.sqrt(height * width * area / aspect))
  fits = (widths > 0) & (widths <= width)
  fits &= (heights > 0) & (heights <= height)
  first = fits & (jnp.cumsum(fits, axis=1) == 1)
  fits_any = jnp.any(fits, axis=1)

  box_height = max(1, min(height, round(width / ratio[0])))
  box_width = max(1, min(width, round(height * ratio[1])))
  box = jnp.where(
    fits_any,
    jnp.stack([jnp.sum(heights * first, 1), jnp.sum(widths * first, 1)]),
    jnp.asarray([[box_height], [box_width]], jnp.float32),
  )
  room = jnp.asarray([[height], [width]], jnp.float32) - box
  place = jnp.minimum(jnp.floor(draws[:, -2:].T * (room + 1)), room)
  place = jnp.where(fits_any, place, jnp.floor(room / 2))
  return jnp.concatenate([place, box]).T.astype(jnp.int32)


@inputs.any_sharding(by_example=True)
def horizontal_flip(images: chex.Array, flip: Any = True) -> jax.Array:
  """Mirrors left and right where `flip` (bool, scalar or `[N]`) is true."""
  images = as_float(images)
  flip = per_image(flip, images, "flip")[..., None]
  if jnp.issubdtype(flip.dtype, jnp.floating):  # such as a probability
    raise ValueError(f"flip must be booleans, got {flip.dtype}")
  return jnp.where(flip, images[:, :, ::-1], images)
