"""Densities of states by the generalised Gilat-Raubenheimer sum.

Around each k-point, a band counts as linear. A square of side 2h of the zone
then adds a trapezoid to the density as a function of frequency (B. Liu et al.,
"Generalized Gilat-Raubenheimer method for density-of-states calculation in
photonic crystals", J. Opt. 20, 044005, 2018). With the sorted magnitudes
v1 >= v2 of its velocity's components it is:

  2h / v1                             where |dw| <= h (v1 - v2)
  (h (v1 + v2) - |dw|) / (v1 v2)      where |dw| <  h (v1 + v2)

and at most (2h)^2 divided by the width of a bin. A trapezoid sampled on bins is
the cumulative sum of its differences, and only a few of these are not 0. They
are scattered and then summed up.

Before clipping, the density integrates to the number of bands. In an empty cell
it is 2 pi omega, with omega in omega a / 2 pi c and the density per cell.
"""

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax.errors import UsageError
from essl_jax.photonics.bands import Bands, k_grid

NUM_POINTS = 500
NUM_TARGETS = 400
_LAST = 1.2
_BINS = 20_000
_BEYOND = 1.05  # bins end at this multiple of the largest frequency
_LARGEST = 40.0
_SIGMA = 100  # bins
_RADIUS = 4 * _SIGMA
# Number of bins below 0, where trapezoids may begin.
_BELOW = 20_000


def frequencies() -> np.ndarray:
  """Returns a density's frequencies, omega sqrt(mean eps), float64 [500]."""
  return np.linspace(0, _LAST, NUM_POINTS)


def empty_lattice() -> np.ndarray:
  """Returns an empty cell's density, 2 pi omega at `frequencies()`, [500]."""
  return 2 * np.pi * frequencies()


def relative_error(output: np.ndarray, target: np.ndarray) -> float:
  """Averages sum |output - target| / sum |target| over cells.

  Args:
    output: densities [N, M], M >= 400, without subtracting the empty lattice.
    target: true densities, [N, M].

  Returns:
    The mean of the ratios, over points 100 to 399.

  Raises:
    ValueError: the shapes differ or are not [N, 400 or more].

  Example:
    >>> ones = np.ones((2, 400))
    >>> print(round(relative_error(1.1 * ones, ones), 6))
    0.1
  """
  output, target = np.asarray(output), np.asarray(target)
  if (
    output.shape != target.shape
    or output.ndim != 2
    or output.shape[1] < NUM_TARGETS
  ):
    raise ValueError(
      f"densities must have the same shape [N, {NUM_TARGETS} or more], got"
      f" {output.shape} and {target.shape}"
    )
  part = slice(100, NUM_TARGETS)
  output = output[:, part].astype(np.float64)
  target = target[:, part].astype(np.float64)
  return float((abs(output - target).sum(1) / abs(target).sum(1)).mean())


def density_of_states(
  bands: Bands, mean_permittivity: np.ndarray
) -> np.ndarray:
  """Computes densities of states as the photonic benchmark prepares them.

  Sums on 20,000 bins of [0, 1.05 max omega], clips at 40, drops bin 0, smooths
  with a Gaussian of 100 bins, interpolates from omega sqrt(mean eps) onto
  `frequencies()` and divides by sqrt(mean eps).

  Args:
    bands: bands of N cells on a whole `k_grid`.
    mean_permittivity: mean eps of each cell, [N], 1 or more.

  Returns:
    float64 [N, 500].

  Raises:
    UsageError: the k-points are not a whole grid, lengths differ, or a mean is
      not a valid permittivity.
  """
  half_cell = 0.5 / _per_side(bands)
  mean = np.asarray(mean_permittivity, np.float64)
  if mean.shape != bands.frequencies.shape[:1]:
    raise UsageError(
      "mean_permittivity must have one value for each of the"
      f" {len(bands.frequencies)} cells, got shape {list(mean.shape)}"
    )
  is_wrong = ~(np.isfinite(mean) & (mean >= 1 - 1e-6))
  if is_wrong.any():
    raise UsageError(
      f"mean_permittivity of cell {is_wrong.argmax()} must be finite and at"
      f" least 1 (vacuum), got {mean[is_wrong.argmax()]:g}"
    )
  with jax.enable_x64(True):
    return np.asarray(
      _prepare(bands.frequencies, bands.group_velocities, mean, half_cell)
    )


def gilat_raubenheimer(bands: Bands) -> tuple[np.ndarray, np.ndarray]:
  """Computes the bare sum, neither clipped nor smoothed.

  Args:
    bands: bands of N cells on a whole `k_grid`.

  Returns:
    Bins and densities, float64 [N, 20001] each, in omega a / 2 pi c and its
    inverse.
  """
  half_cell = 0.5 / _per_side(bands)
  with jax.enable_x64(True):
    bins, densities = jax.jit(jax.vmap(_sum, (0, 0, None)))(
      bands.frequencies, bands.group_velocities, half_cell
    )
    return np.asarray(bins), np.asarray(densities)


def _per_side(bands: Bands) -> int:
  """Returns the side of the square grid of k-points."""
  side = round(len(bands.k_points) ** 0.5)
  expected = k_grid(side)
  if len(expected) != len(bands.k_points) or not np.allclose(
    bands.k_points, expected, atol=1e-6
  ):
    raise UsageError(
      f"{len(bands.k_points)} k-points are not a square grid of the whole zone:"
      " use bands.k_grid()"
    )
  return side


@jax.jit
def _prepare(frequencies_, velocities, mean, half_cell):
  """Runs all steps of `density_of_states`, mapped over the cells."""

  def prepare(cell):
    cell_frequencies, cell_velocities, cell_mean = cell
    bins, density = _sum(cell_frequencies, cell_velocities, half_cell)
    density = _smooth(jnp.minimum(density, _LARGEST)[1:])
    root = jnp.sqrt(cell_mean)
    return jnp.interp(frequencies(), bins[1:] * root, density) / root

  return jax.lax.map(prepare, (frequencies_, velocities, mean))


def _sum(
  frequencies_: jax.Array, velocities: jax.Array, half_cell: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Makes bins and bare density, [20001] each, from [K, B] and [K, B, 2]."""
  centre = frequencies_.reshape(-1)
  speeds = jnp.sort(jnp.abs(velocities.reshape(-1, 2)), axis=1)
  slow, fast = speeds[:, 0], speeds[:, 1]
  last = _BEYOND * jnp.max(centre)
  width = last / _BINS
  highest = (2 * half_cell) ** 2 / width
  height = jnp.minimum(2 * half_cell / jnp.maximum(fast, 1e-300), highest)
  outer = half_cell * (slow + fast)
  inner = jnp.maximum(outer - height * slow * fast, 0.0)
  to_bins = lambda x: x / width + _BELOW
  start = jnp.concatenate([to_bins(centre - outer), to_bins(centre + inner)])
  stop = jnp.concatenate([to_bins(centre - inner), to_bins(centre + outer)])
  rise = jnp.concatenate([height, -height])
  density = _edges(start, stop, rise, _BELOW + _BINS + 1)[_BELOW:]
  return jnp.arange(_BINS + 1) * width, density


def _edges(
  start: jax.Array, stop: jax.Array, rise: jax.Array, length: int
) -> jax.Array:
  """Sums linear edges, sampled at 0 .. length - 1.

  Args:
    start: start of each edge, [E].
    stop: end of each edge, not before its start, [E].
    rise: height of each edge, [E].
    length: number of samples.

  Returns:
    float64 [length].
  """
  is_steep = stop - start < 1
  # Steep edges: at most one sample lies on them; first differences suffice.
  first = jnp.ceil(start)
  share = jnp.where(first < stop, first - start, 1.0)
  share /= jnp.where(first < stop, jnp.maximum(stop - start, 1e-300), 1.0)
  once = jnp.where(is_steep, rise, 0.0)
  differences = _scatter(
    length, (first, once * share), (first + 1, once * (1 - share))
  )
  # Flat edges: a ramp from `start` minus one from `stop`: second differences.
  slope = jnp.where(is_steep, 0.0, rise / jnp.maximum(stop - start, 1.0))
  low, high = jnp.floor(start), jnp.floor(stop)
  second = _scatter(
    length,
    (low + 1, slope * (1 - (start - low))),
    (low + 2, slope * (start - low)),
    (high + 1, -slope * (1 - (stop - high))),
    (high + 2, -slope * (stop - high)),
  )
  return jnp.cumsum(differences + jnp.cumsum(second))


def _scatter(length: int, *entries: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Adds values at positions, and drops those past the end."""
  positions = jnp.concatenate([where for where, _ in entries])
  values = jnp.concatenate([value for _, value in entries])
  positions = jnp.clip(positions, 0, length).astype(jnp.int32)
  return jnp.zeros(length, values.dtype).at[positions].add(values, mode="drop")


def _smooth(density: jax.Array) -> jax.Array:
  """Applies a Gaussian filter that reflects at the borders, as in SciPy."""
  offsets = np.arange(-_RADIUS, _RADIUS + 1)
  kernel = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
  padded = jnp.pad(density, _RADIUS, mode="symmetric")
  length = len(padded) + 2 * _RADIUS
  product = jnp.fft.rfft(padded, length) * jnp.fft.rfft(
    jnp.asarray(kernel / kernel.sum()), length
  )
  return jnp.fft.irfft(product, length)[2 * _RADIUS : len(padded)]
