"""Winograd's minimal filtering in one dimension: matrices and tiles.

F(m, 3) makes m outputs in a row of m + 2 products, from as many inputs, where
the plain sum of 3 taps takes 3 m.

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
    """How many inputs a tile has, and products."""
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
  """Adds multiples of arrays.

  Args:
    matrix: of factors, a column for each array.
    arrays: of one shape.

  Returns:
    A sum for every row.
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
  """Takes what lies at place 0, 1, .. of every tile.

  Args:
    x: whole tiles along `axis`, those of inputs overlapping by 2.
    axis: to be divided.
    filtering: whose tiles they are.
    number: of places: `outputs` or `products`.

  Returns:
    For each place an array with as many entries along `axis` as tiles.
  """
  step = filtering.outputs
  tiles = (x.shape[axis] - number) // step + 1
  return [
    lax.slice_in_dim(x, i, i + (tiles - 1) * step + 1, step, axis)
    for i in range(number)
  ]


def interleave(arrays: list[jax.Array], axis: int) -> jax.Array:
  """The inverse of `slices` where tiles do not overlap."""
  shape = list(arrays[0].shape)
  shape[axis] *= len(arrays)
  return jnp.stack(arrays, axis + 1).reshape(shape)


def transpose(matrix: Matrix) -> Matrix:
  """Exchanges rows and columns."""
  return tuple(zip(*matrix, strict=True))
