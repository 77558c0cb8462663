"""Band structures of square photonic crystals, transverse magnetic.

Frequencies are omega a / 2 pi c, Bloch vectors are in units of 2 pi / a, and
group velocities in units of c, where a is the side of the cell and c the speed
of light. Everything is computed in float64, whatever the precision of the
surrounding program, which does not change.
"""

import functools
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from essl_jax.errors import UsageError
from essl_jax.photonics import plane_waves as waves_lib
from essl_jax.photonics import reduced_basis

METHODS = ("reduced", "full")
NUM_BANDS = 10
K_POINTS_PER_SIDE = 25
PLANE_WAVES = 19
# Fields per expansion point beyond `num_bands`.
_MORE_BANDS = 4
_DIMENSION_PER_BAND = 6.0
# Bands that cross at k are solved this close to it, off all mirror lines.
_ASIDE = 1e-7 * np.array([np.cos(1.0), np.sin(1.0)])
# Farther at k = 0, where 1/omega^2 of the lowest band would drown the others.
_ASIDE_AT_GAMMA = 300.0
_AT_GAMMA = 1e-9


class Bands(NamedTuple):
  """Bands of N cells at K k-points.

  Attributes:
    k_points: float64 [K, 2] in 2 pi / a.
    frequencies: float64 [N, K, B] in omega a / 2 pi c, ascending.
    group_velocities: float64 [N, K, B, 2] in c. Where bands touch at a k-point,
      these are the velocities of the branches in one fixed direction, and only
      the set of them has a meaning. At k = 0, the tip of the lowest band's
      cone, that band has frequency and velocity 0.
  """

  k_points: np.ndarray
  frequencies: np.ndarray
  group_velocities: np.ndarray


def k_grid(per_side: int = K_POINTS_PER_SIDE) -> np.ndarray:
  """Makes cell-centred k-points of the whole zone, k_i = -1/2 + (i + 1/2) / n.

  Args:
    per_side: n.

  Returns:
    float64 [n**2, 2]; x varies fastest, as in MPB's lists.
  """
  k = (np.arange(per_side) + 0.5) / per_side - 0.5
  return np.stack(np.meshgrid(k, k), -1).reshape(-1, 2)


def solve(
  permittivity: np.ndarray,
  *,
  k_points: np.ndarray | None = None,
  num_bands: int = NUM_BANDS,
  plane_waves: int = PLANE_WAVES,
  method: str = "reduced",
  mesh: Mesh | None = None,
) -> Bands:
  """Computes the TM bands of cells from their permittivity.

  Solves half of the zone: omega(-k) = omega(k), v(-k) = -v(k).

  Args:
    permittivity: [N, P, P], one value per pixel, indexed by cell, x, y; 1 or
      more everywhere.
    k_points: [K, 2] in 2 pi / a; `k_grid()` if None.
    num_bands: B, the number of lowest bands.
    plane_waves: number of plane waves in each direction, odd and at most P.
      Compared with all P**2 waves, the default's frequencies are within 1e-3
      for usual cells of `cells`, within 4e-3 for contrasts above about 10, and
      densities of states within 0.25%.
    method: "reduced" solves six k-points in full and all others in the basis of
      their fields, which adds an error of about 1e-5; "full" solves each
      k-point in full and is tens of times slower.
    mesh: one axis of devices to shard the cells over; None uses only the first
      device.

  Returns:
    The bands, as NumPy arrays on the host.

  Raises:
    UsageError: an argument is out of range; the message names it.
  """
  cells = check_permittivity(permittivity)
  _check_sizes(cells.shape[1], num_bands, plane_waves, method)
  k_points = k_grid() if k_points is None else np.asarray(k_points, float)
  if k_points.ndim != 2 or k_points.shape[1] != 2 or not len(k_points):
    raise UsageError(f"k_points must be [K, 2], got {list(k_points.shape)}")
  if not np.isfinite(k_points).all():
    raise UsageError("k_points must be finite")
  half, where, sign = _fold(k_points)
  devices = 1 if mesh is None else mesh.size
  padded = np.concatenate([cells, cells[-1:].repeat(-len(cells) % devices, 0)])
  with jax.enable_x64(True):
    run = _compiled(num_bands, plane_waves, method, mesh)
    frequencies, velocities = jax.device_get(run(padded, half))
  frequencies, velocities = frequencies[: len(cells)], velocities[: len(cells)]
  return Bands(
    k_points,
    frequencies[:, where],
    velocities[:, where] * sign[None, :, None, None],
  )


def check_permittivity(permittivity: np.ndarray) -> np.ndarray:
  """Converts cells to float64 [N, P, P]; UsageError for wrong ones."""
  if np.iscomplexobj(permittivity):
    raise UsageError("permittivity is complex: give real numbers (no losses)")
  cells = np.asarray(permittivity, np.float64)
  if cells.ndim != 3 or cells.shape[1] != cells.shape[2] or 0 in cells.shape:
    raise UsageError(
      "permittivity must be of square cells, [N, P, P], got"
      f" {list(cells.shape)}"
    )
  if not np.isfinite(cells).all():
    bad = int(np.argwhere(~np.isfinite(cells))[0, 0])
    raise UsageError(f"permittivity of cell {bad} is not finite everywhere")
  if cells.min() < 1:
    bad = int(cells.min(axis=(1, 2)).argmin())
    raise UsageError(
      f"permittivity of cell {bad} must be at least 1 (vacuum), got"
      f" {cells.min():g} (are the cells scaled?)"
    )
  return cells


def _check_sizes(
  pixels: int, num_bands: int, plane_waves: int, method: str
) -> None:
  if method not in METHODS:
    raise UsageError(
      f"method must be one of {', '.join(METHODS)}, got {method!r}"
    )
  sizes = {"num_bands": num_bands, "plane_waves": plane_waves}
  for name, size in sizes.items():
    if not isinstance(size, numbers.Integral):
      raise UsageError(f"{name} {size!r} must be a whole number")
  if plane_waves % 2 == 0 or not 1 <= plane_waves <= pixels:
    raise UsageError(
      f"plane_waves {plane_waves} must be odd and at most the {pixels} pixels"
      " of a cell's side"
    )
  most = plane_waves**2 - (_MORE_BANDS if method == "reduced" else 0)
  if not 1 <= num_bands <= most:
    raise UsageError(
      f"num_bands {num_bands} must be 1 to {most} with {plane_waves} x"
      f" {plane_waves} plane waves; raise plane_waves"
    )


def _fold(k_points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Folds k-points into the half zone k_y >= 0, without duplicates.

  Returns the folded k-points [H, 2], and for each given k-point the index [K]
  of its folded one and the sign [K] of its velocities.
  """
  k = k_points - np.round(k_points)
  is_lower = (k[:, 1] < -_AT_GAMMA) | (
    (np.abs(k[:, 1]) <= _AT_GAMMA) & (k[:, 0] < 0)
  )
  sign = np.where(is_lower, -1.0, 1.0)
  # Rounding merges k and -k; + 0.0 turns -0.0 into 0.0.
  folded = np.round(k * sign[:, None], 12) + 0.0
  half, where = np.unique(folded, axis=0, return_inverse=True)
  return half, where.reshape(-1), sign


@functools.lru_cache(maxsize=16)
def _compiled(num_bands: int, size: int, method: str, mesh: Mesh | None):
  """Jits the solver for cells and half zone; call it in 64 bits."""
  solve_cell = functools.partial(
    _solve_cell, num_bands=num_bands, size=size, method=method
  )

  def run(cells: jax.Array, k_points: jax.Array):
    return jax.lax.map(lambda cell: solve_cell(cell, k_points), cells)

  if mesh is None:
    return jax.jit(run)
  axis = P(mesh.axis_names)
  mapped = jax.shard_map(
    run, mesh=mesh, in_specs=(axis, P()), out_specs=axis, check_vma=False
  )
  return jax.jit(mapped)


def _solve_cell(
  permittivity: jax.Array,
  k_points: jax.Array,
  *,
  num_bands: int,
  size: int,
  method: str,
) -> tuple[jax.Array, jax.Array]:
  """Solves frequencies [H, B] and velocities [H, B, 2] of one cell."""
  matrix = waves_lib.permittivity_matrix(permittivity, size)
  is_gamma = jnp.max(jnp.abs(k_points), 1, keepdims=True) < _AT_GAMMA
  aside = jnp.where(is_gamma, _ASIDE_AT_GAMMA, 1.0) * jnp.asarray(_ASIDE)[None]
  aside += k_points
  if method == "full":

    def at(k):
      squares, fields = waves_lib.solve_dense(matrix, k, size, num_bands)
      frequencies = jnp.sqrt(squares)
      return frequencies, waves_lib.velocities(fields, frequencies, k, size)

    frequencies, velocities = jax.lax.map(at, aside)
  else:
    per_point = num_bands + _MORE_BANDS
    dimension = min(
      int(_DIMENSION_PER_BAND * num_bands),
      per_point * len(reduced_basis.EXPANSION_POINTS),
    )
    operator = reduced_basis.build(matrix, size, per_point, dimension)
    squares, gradients = jax.vmap(
      lambda k: reduced_basis.solve(operator, k, num_bands)
    )(aside)
    frequencies = jnp.sqrt(jnp.maximum(squares, 0))
    velocities = gradients / jnp.maximum(frequencies, 1e-12)[..., None]
  is_tip = is_gamma & (jnp.arange(num_bands) == 0)[None]
  return (
    jnp.where(is_tip, 0.0, frequencies),
    jnp.where(is_tip[..., None], 0.0, velocities),
  )
