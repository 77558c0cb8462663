"""Unit cells of two materials: generic, of plane group pm, and single blobs.

A cell depends only on (seed, kind, split, index), so each can be made without
the others, and no two seeds or splits share a cell. Both permittivities are
uniform in [1, 20].

Pixel i of 32 is centred at x = (i + 1/2) / 32 - 1/2, so flips, quarter turns
and rolls of the array are symmetries of the grid. A pixel holds the mean of eps
over 8 x 8 points of its area. This is the effective permittivity for a field
parallel to all interfaces, such as the transverse magnetic one (Meade et al.,
Phys. Rev. B 48, 8434, 1993). MPB uses the same mean, over 3 x 3 points.
"""

from collections.abc import Callable

import numpy as np

from essl_jax.errors import UsageError

PIXELS = 32
SUBPIXELS = 8
# Raise this number when any seed gives different cells.
VERSION = 1
SPLITS = ("unlabelled", "train", "validation", "test")
LOWEST_PERMITTIVITY, HIGHEST_PERMITTIVITY = 1.0, 20.0
_LEVEL_GRID = 50
_HARMONICS = np.arange(2, 7)

_Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make(kind: str, seed: int, split: str, index: int) -> np.ndarray:
  """Makes one unit cell.

  Args:
    kind: one of `KINDS`.
    seed: 0 or more.
    split: one of `SPLITS`.
    index: index of the cell in its split, from 0.

  Returns:
    Permittivity, float32 [32, 32], indexed by x, y.

  Raises:
    UsageError: an argument is out of range.
  """
  if kind not in KINDS:
    raise UsageError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
  if split not in SPLITS:
    raise UsageError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
  if seed < 0 or index < 0:
    raise UsageError(f"seed {seed} and index {index} must be 0 or more")
  key = (list(KINDS).index(kind), SPLITS.index(split), index)
  random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
  is_first = KINDS[kind](random)
  first, second = _uniform(random, LOWEST_PERMITTIVITY, HIGHEST_PERMITTIVITY, 2)
  points = (np.arange(PIXELS * SUBPIXELS) + 0.5) / (PIXELS * SUBPIXELS) - 0.5
  inside = is_first(points[:, None], points[None])
  share = inside.reshape(PIXELS, SUBPIXELS, PIXELS, SUBPIXELS).mean((1, 3))
  # Clipped below, because rounding could leave [1, 20].
  cell = second + (first - second) * share
  return np.clip(cell, LOWEST_PERMITTIVITY, HIGHEST_PERMITTIVITY).astype(
    np.float32
  )


def _generic(random: np.random.Generator) -> _Shape:
  """F = sum over G in {-1, 0, 1}^2 of rho cos(2 pi G r + phi), cut at a level.

  rho is uniform in (0, 1), phi in (0, 2 pi). The level is a quantile of F,
  uniform in (0.01, 0.99) (Loh et al., Nat. Commun. 13, 2022).
  """
  amplitudes = random.random(9)
  phases = 2 * np.pi * random.random(9)
  waves = [(gx, gy) for gx in (-1, 0, 1) for gy in (-1, 0, 1)]

  def field(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return sum(
      rho * np.cos(2 * np.pi * (gx * x + gy * y) + phi)
      for (gx, gy), rho, phi in zip(waves, amplitudes, phases, strict=True)
    )

  return _above_quantile(field, random)


def _gpm(random: np.random.Generator) -> _Shape:
  """Like `_generic` with the mirror x -> -x: one rho and phi per orbit of G."""
  orbits = [(0, 0), (0, 1), (0, -1), (1, 0), (1, 1), (1, -1)]
  amplitudes = random.random(len(orbits))
  phases = 2 * np.pi * random.random(len(orbits))

  def field(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Uses |x|, so that rounding is mirrored too.
    mirrored = 2 * np.cos(2 * np.pi * np.abs(x))
    return sum(
      rho * (mirrored if gx else 1) * np.cos(2 * np.pi * gy * y + phi)
      for (gx, gy), rho, phi in zip(orbits, amplitudes, phases, strict=True)
    )

  return _above_quantile(field, random)


def _above_quantile(field: _Shape, random: np.random.Generator) -> _Shape:
  fill = _uniform(random, 0.01, 0.99)
  grid = np.linspace(-0.5, 0.5, _LEVEL_GRID)
  values = field(grid[:, None], grid[None]) + np.zeros((_LEVEL_GRID,) * 2)
  level = np.quantile(values, fill)
  return lambda x, y: field(x, y) + 0 * (x + y) > level


def _blob(random: np.random.Generator) -> _Shape:
  """One smooth inclusion around the centre of the cell.

  The paper's generator was never published; this one is ours. The radius is
  r(t) = R exp(s(t) - max s), s(t) = sum_{n=2}^{6} a_n cos(n t + p_n), with R
  uniform in (0.1, 0.45), a_n in (0, 1/n), p_n in (0, 2 pi). The term n = 1 is
  left out, because it would move the blob. Flips and quarter turns of a blob
  are as likely as the blob. Rolls by half a cell are not blobs, so they can be
  recognised.
  """
  radius = _uniform(random, 0.1, 0.45)
  amplitudes = random.random(len(_HARMONICS)) / _HARMONICS
  phases = 2 * np.pi * random.random(len(_HARMONICS))

  def waviness(angle: np.ndarray) -> np.ndarray:
    return sum(
      a * np.cos(n * angle + p)
      for n, a, p in zip(_HARMONICS, amplitudes, phases, strict=True)
    )

  largest = waviness(np.linspace(0, 2 * np.pi, 360, endpoint=False)).max()

  def is_inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    edge = radius * np.exp(waviness(np.arctan2(y, x)) - largest)
    return np.hypot(x, y) < edge

  return is_inside


def _uniform(random: np.random.Generator, low, high, size=None):
  return low + (high - low) * random.random(size)


KINDS = {"generic": _generic, "gpm": _gpm, "blob": _blob}
