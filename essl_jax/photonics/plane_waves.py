"""Maxwell's equations of one cell in plane waves, transverse magnetic.

The electric field points along the invariant axis z. At Bloch vector k it is
E(r) = sum_G E_G exp(2 pi i (k+G) r), with lengths in units of the cell a. Then

  |k+G|^2 E_G = omega^2 sum_G' eps_{G-G'} E_G'

with omega in units of 2 pi c / a. `eps_G` are the discrete Fourier
coefficients of the image, with indices modulo its size. With as many plane
waves as pixels, this is the operator of MPB, which multiplies by 1/eps on the
pixels (Johnson and Joannopoulos, Opt. Express 8, 173, 2001). With fewer, it is
that operator on a subspace, so frequencies fall towards MPB's as waves are
added.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Waves longer than 1e7 cells count as zero frequency.
_SMALLEST_SQUARE = 1e-14


def lattice(size: int) -> np.ndarray:
  """Returns the reciprocal lattice vectors in a square block around 0.

  Args:
    size: waves in each direction; odd, so that each G has its -G.

  Returns:
    Integers [size**2, 2] in units of 2 pi / a; x varies slowest.
  """
  g = np.arange(size) - size // 2
  return np.stack(np.meshgrid(g, g, indexing="ij"), -1).reshape(-1, 2)


def permittivity_matrix(permittivity: jax.Array, size: int) -> jax.Array:
  """Makes the Hermitian matrix eps_{G-G'}.

  Args:
    permittivity: float64 [P, P], indexed by x, y.
    size: plane waves in each direction, at most P.

  Returns:
    complex128 [size**2, size**2].
  """
  pixels = permittivity.shape[0]
  coefficients = jnp.fft.fft2(permittivity) / pixels**2
  waves = lattice(size)
  difference = (waves[:, None] - waves[None]) % pixels
  return coefficients[difference[..., 0], difference[..., 1]]


def solve_dense(
  matrix: jax.Array, k_point: jax.Array, size: int, num_bands: int
) -> tuple[jax.Array, jax.Array]:
  """Solves the lowest bands at one k-point by a full diagonalisation.

  Diagonalises |k+G|^-1 eps_{G-G'} |k'+G'|^-1, whose largest eigenvalues are
  1/omega^2 of the lowest bands. No matrix is factorised.

  Args:
    matrix: from `permittivity_matrix`.
    k_point: float64 [2] in 2 pi / a; not 0.
    size: plane waves in each direction.
    num_bands: number of bands to return.

  Returns:
    omega^2, float64 [num_bands], ascending; the fields E_G, complex128
    [size**2, num_bands], with E^H eps E = 1.
  """
  squares = jnp.sum((k_point[None] + lattice(size)) ** 2, axis=1)
  root = 1 / jnp.sqrt(jnp.maximum(squares, _SMALLEST_SQUARE))
  values, vectors = jnp.linalg.eigh(root[:, None] * matrix * root[None])
  # Puts the largest 1/omega^2 first, and undoes the scaling.
  values = values[::-1][:num_bands]
  fields = root[:, None] * vectors[:, ::-1][:, :num_bands]
  return 1 / values, fields / jnp.sqrt(values)[None]


def velocities(
  fields: jax.Array, frequencies: jax.Array, k_point: jax.Array, size: int
) -> jax.Array:
  """Computes group velocities by Hellmann-Feynman: sum (k+G)|E_G|^2 / omega.

  Args:
    fields: complex128 [size**2, B], with E^H eps E = 1.
    frequencies: float64 [B], none of them 0.
    k_point: float64 [2].
    size: plane waves in each direction.

  Returns:
    d omega / d k in units of c, float64 [B, 2].
  """
  weights = jnp.abs(fields) ** 2
  return weights.T @ (k_point[None] + lattice(size)) / frequencies[:, None]
