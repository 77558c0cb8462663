"""A small basis for the fields that makes bands at a k-point cheap.

Reduced Bloch mode expansion (Hussein, Proc. R. Soc. A 465, 2825, 2009): the
periodic parts u_k(r) of the fields change smoothly with k, so solutions at a
few k-points nearly span those at all others. In this basis the operator is

  H(k) = A + 2 k_x B_x + 2 k_y B_y + |k|^2 C

with four matrices that are computed once per cell. Each k-point then needs only
a small dense problem. By Rayleigh-Ritz, the frequencies are too high by an
error that is quadratic in what the basis lacks of the fields.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax.photonics import plane_waves

# In the half zone k_y >= 0; the other half is its time reversal.
EXPANSION_POINTS = np.array(
  [(x, y) for x in (-1 / 3, 0.0, 1 / 3) for y in (0.125, 0.375)]
)
# Directions below this fraction of the largest are rounding, not fields.
_NEGLIGIBLE = 1e-11
# Moves the placeholders of missing directions above all bands.
_ABOVE_ALL = 1e6


class Operator(NamedTuple):
  """The operator in an eps-orthonormal reduced basis of m vectors.

  Attributes:
    constant: A, complex128 [m, m].
    linear: B_x and B_y, complex128 [2, m, m].
    quadratic: C, complex128 [m, m].
  """

  constant: jax.Array
  linear: jax.Array
  quadratic: jax.Array


def build(
  matrix: jax.Array, size: int, bands_per_point: int, dimension: int
) -> Operator:
  """Solves the expansion points and forms the reduced operator.

  Args:
    matrix: from `plane_waves.permittivity_matrix`.
    size: plane waves in each direction.
    bands_per_point: number of fields from each expansion point.
    dimension: number of basis vectors to keep, the most important ones.

  Returns:
    The operator in the basis.
  """
  solve = lambda k: plane_waves.solve_dense(matrix, k, size, bands_per_point)
  _, fields = jax.lax.map(solve, jnp.asarray(EXPANSION_POINTS))
  fields = jnp.moveaxis(fields, 0, 1).reshape(size**2, -1)
  # The lowest field at k = 0 is constant, and its frequency exactly 0.
  constant = np.all(plane_waves.lattice(size) == 0, axis=1)
  # It gets a norm of 3 instead of 1, so that it stays in the basis.
  column = 3 * constant / jnp.sqrt(jnp.mean(jnp.diag(matrix)))
  fields = jnp.concatenate([fields, column[:, None]], 1)
  basis, is_missing = _orthonormalise(fields, matrix, dimension)
  waves = jnp.asarray(plane_waves.lattice(size), jnp.float64)
  project = lambda w: basis.conj().T @ (w[:, None] * basis)
  return Operator(
    project(jnp.sum(waves**2, 1)) + jnp.diag(_ABOVE_ALL * is_missing),
    jnp.stack([project(waves[:, 0]), project(waves[:, 1])]),
    basis.conj().T @ basis,
  )


def _orthonormalise(
  fields: jax.Array, matrix: jax.Array, dimension: int
) -> tuple[jax.Array, jax.Array]:
  """Finds the principal directions of fields, eps-orthonormal.

  Returns the basis [waves, dimension], and a mask of the vectors that are 0
  because the fields have fewer directions (in a uniform cell, all fields are
  plane waves).
  """
  gram = fields.conj().T @ (matrix @ fields)
  values, vectors = jnp.linalg.eigh(gram)
  values, vectors = values[-dimension:], vectors[:, -dimension:]
  is_missing = values < _NEGLIGIBLE * values[-1]
  scale = jnp.where(
    is_missing, 0.0, 1 / jnp.sqrt(jnp.where(is_missing, 1, values))
  )
  return fields @ (vectors * scale[None]), is_missing


def solve(
  operator: Operator, k_point: jax.Array, num_bands: int
) -> tuple[jax.Array, jax.Array]:
  """Solves the lowest bands at one k-point of the half zone.

  Args:
    operator: from `build`.
    k_point: float64 [2] in 2 pi / a.
    num_bands: number of bands to return.

  Returns:
    omega^2, float64 [num_bands]; its half gradient omega d omega / d k,
    float64 [num_bands, 2].
  """
  kx, ky = k_point
  bx, by = operator.linear
  matrix = operator.constant + 2 * (kx * bx + ky * by)
  squares, vectors = jnp.linalg.eigh(
    matrix + (kx**2 + ky**2) * operator.quadratic
  )
  vectors = vectors[:, :num_bands]
  overlap = jnp.sum(vectors.conj() * (operator.quadratic @ vectors), 0).real
  gradient = [
    jnp.sum(vectors.conj() * (b @ vectors), 0).real + k * overlap
    for k, b in ((kx, bx), (ky, by))
  ]
  return squares[:num_bands], jnp.stack(gradient, -1)
