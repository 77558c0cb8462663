"""Patches of images, and their fixed or learned positions."""

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs

_LONGEST_PERIOD = 10_000  # divided by 2 pi, in patches


def split(images: jax.Array, side: int) -> jax.Array:
  """Splits images into patches, row by row.

  Args:
    images: `[N, H, W, C]`, floating point.
    side: Side of a patch in pixels.

  Returns:
    `[N, patches, side * side * C]`: pixels row by row, each with its channels.

  Raises:
    ValueError: If the images do not have four axes or are not floating point,
      or if patches do not divide them.
  """
  if images.ndim != 4:
    raise ValueError(f"Images must be [N, H, W, C], got shape {images.shape}.")
  inputs.check_floating("Images", images)
  n, height, width, channels = images.shape
  inputs.check_multiple("image height", height, side, "patch")
  inputs.check_multiple("image width", width, side, "patch")
  rows, columns = height // side, width // side
  # Splits one axis at a time, so that JAX can infer the sharding.
  x = images.reshape(n, rows, side, width, channels)
  x = x.reshape(n, rows, side, columns, side, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(n, rows * columns, side, side, channels)
  return x.reshape(n, rows * columns, -1)


def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
  """Computes fixed positions of a grid: sines and cosines of both indices.

  The first half of the channels encodes the row, the second half the column.
  Each has the sines of all frequencies, then their cosines.

  Args:
    rows: Number of rows of patches.
    columns: Number of columns of patches.
    width: Number of channels, a multiple of 4.

  Returns:
    Positions row by row, `[rows * columns, width]`, float32, in [-1, 1].

  Raises:
    ValueError: If the width is not a multiple of 4.

  Reference:
    Chen et al. 2021 (arXiv 2104.02057), section 5, "Position embedding".
  """
  inputs.check_multiple("width of sine-cosine positions", width, 4)
  frequencies = _LONGEST_PERIOD ** -(np.arange(width // 4) / (width // 4))
  angles = np.indices((rows, columns)).reshape(2, -1, 1) * frequencies
  parts = [wave(index) for index in angles for wave in (np.sin, np.cos)]
  return np.concatenate(parts, axis=-1).astype(np.float32)


def interpolate(
  learned: jax.Array, side: int, rows: int, columns: int
) -> jax.Array:
  """Interpolates learned positions of a square grid to another size.

  Args:
    learned: Positions of the class token and then of the patches row by row,
      `[1, 1 + side * side, D]`.
    side: Side of the square grid, in patches.
    rows: Number of rows of patches.
    columns: Number of columns of patches.

  Returns:
    `[1, 1 + rows * columns, D]`. The class token's position does not change.
    The patches' positions are interpolated bicubically, antialiased if the grid
    shrinks.

  Reference:
    timm's `resample_abs_pos_embed`.
  """
  if (rows, columns) == (side, side):
    return learned
  width = learned.shape[-1]
  grid = learned[:, 1:].reshape(1, side, side, width)
  size = (1, rows, columns, width)
  grid = jax.image.resize(grid, size, "bicubic", antialias=True)
  grid = grid.reshape(1, rows * columns, width)
  return jnp.concatenate([learned[:, :1], grid], axis=1)
