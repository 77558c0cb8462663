"""Winograd's minimal filtering in one dimension: matrices and tiles.

F(m, 3) computes m adjacent outputs from m + 2 inputs with m + 2 products. The
plain sum over 3 taps takes 3 m products.

Reference: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
CVPR 2016 (arXiv 1509.09308), section 4.
"""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp

Matrix = tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True)
class Filtering:
  """F(outputs, 3): output = to_output @ (to_kernel @ k * to_input @ x)."""

  outputs: int
  to_input: Matrix
  to_kernel: Matrix
  to_output: Matrix

  @property
  def products(self) -> int:
    """Number of products of a tile, which is also its number of inputs."""
    return self.outputs + 2


F2 = Filtering(
  2,
  ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
  ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
  ((1, 1, 1, 0), (0, 1, -1, -1)),
)
F4 = Filtering(
  4,
  (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
  ),
  (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
  ),
  (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
  ),
)


def combine(matrix: Matrix, arrays: list[jax.Array]) -> list[jax.Array]:
  """Computes linear combinations of arrays.

  Args:
    matrix: factors, one column per array.
    arrays: arrays of equal shape.

  Returns:
    One sum per row.
  """
  sums = []
  for row in matrix:
    terms = [
      array if factor == 1 else factor * array
      for factor, array in zip(row, arrays, strict=True)
      if factor
    ]
    sums.append(sum(terms[1:], start=terms[0]))
  return sums


def slices(
  x: jax.Array, axis: int, filtering: Filtering, number: int
) -> list[jax.Array]:
  """Takes entry 0, 1, ... of every tile.

  Args:
    x: whole tiles along `axis`; input tiles overlap by 2.
    axis: the axis to divide into tiles.
    filtering: the filtering that sets the tiles.
    number: number of entries: `outputs` or `products`.

  Returns:
    One array per entry, with one value per tile along `axis`.
  """
  step = filtering.outputs
  tiles = (x.shape[axis] - number) // step + 1
  return [
    lax.slice_in_dim(x, i, i + (tiles - 1) * step + 1, step, axis)
    for i in range(number)
  ]


def interleave(arrays: list[jax.Array], axis: int) -> jax.Array:
  """Inverts `slices` for tiles that do not overlap."""
  shape = list(arrays[0].shape)
  shape[axis] *= len(arrays)
  return jnp.stack(arrays, axis + 1).reshape(shape)


def transpose(matrix: Matrix) -> Matrix:
  """Exchanges rows and columns."""
  return tuple(zip(*matrix, strict=True))
