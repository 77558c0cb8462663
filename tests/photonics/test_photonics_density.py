"""Densities of states: golden numbers, free space, the sum rule, symmetry."""

import numpy as np
import pytest

from essl_jax.errors import UsageError
from essl_jax.photonics import bands, density


@pytest.fixture(scope="module")
def mpb(golden):
  return golden("mpb_bands")


@pytest.fixture(scope="module")
def mpb_bands(mpb):
  return bands.Bands(
    mpb["k_points"], mpb["frequencies"], mpb["group_velocities"]
  )


def _solve(cells):
  mean = cells.mean((1, 2), dtype=np.float64)
  return density.density_of_states(bands.solve(cells), mean)


def test_mpbs_bands_give_mpbs_density(mpb, mpb_bands):
  mean = mpb["epsilon"].mean((1, 2), dtype=np.float64)
  found = density.density_of_states(mpb_bands, mean)
  np.testing.assert_allclose(found, mpb["density_of_states"], atol=1e-5)


def test_our_bands_give_mpbs_density(mpb):
  error = density.relative_error(
    _solve(mpb["epsilon"]), mpb["density_of_states"]
  )
  assert error < 1e-3


def test_free_space():
  found = _solve(np.full((2, 32, 32), [[[1.0]], [[9.0]]]))
  expected = density.empty_lattice()
  for cell in found:  # all alike, because the mean scales frequencies
    np.testing.assert_allclose(cell[100:400], expected[100:400], rtol=1e-3)


@pytest.mark.parametrize("whose", ["mpb", "ours"])
def test_the_bare_sum_integrates_to_the_number_of_bands(mpb, mpb_bands, whose):
  made = mpb_bands if whose == "mpb" else bands.solve(mpb["epsilon"])
  bins, found = density.gilat_raubenheimer(made)
  # Without what is cut off at 0 and above the last bin, and without bands so
  # flat that one bin's limit applies.
  integral = (found * bins[:, 1:2]).sum(1)
  np.testing.assert_allclose(integral, 10, rtol=2e-3)


def test_the_sum_is_the_formula(mpb_bands):
  few = bands.Bands(
    mpb_bands.k_points,
    mpb_bands.frequencies[:1, :, :2],
    # One component or both vanish; one band is nearly flat.
    mpb_bands.group_velocities[:1, :, :2] * [[0, 1], [1e-6, 1e-5]],
  )
  bins, found = density.gilat_raubenheimer(few)
  h = 1 / 50
  expected = np.zeros(len(bins[0]))
  slow, fast = np.sort(np.abs(few.group_velocities.reshape(-1, 2)), -1).T
  highest = (2 * h) ** 2 / bins[0, 1]
  triples = zip(few.frequencies.reshape(-1), slow, fast, strict=True)
  for frequency, v2, v1 in triples:
    if v1 == 0:
      continue
    away = np.abs(bins[0] - frequency)
    slope = (h * (v1 + v2) - away) / max(v1 * v2, 1e-300)
    value = np.where(away <= h * (v1 - v2), 2 * h / v1, slope)
    value[away >= h * (v1 + v2)] = 0
    expected += np.minimum(value, highest)
  # Bins exactly on the edge of a box may fall on either side.
  differs = np.abs(found[0] - expected) > 1e-6
  assert differs.mean() < 1e-3


@pytest.mark.parametrize(
  "change",
  [
    lambda x: np.roll(x, (16, 5), (1, 2)),
    lambda x: x[:, ::-1],
    lambda x: x[:, :, ::-1],
    lambda x: np.rot90(x, axes=(1, 2)),
  ],
  ids=["roll", "flip x", "flip y", "quarter turn"],
)
def test_symmetries_leave_the_density(mpb, change):
  cells = mpb["epsilon"][:3]
  error = density.relative_error(_solve(change(cells)), _solve(cells))
  assert error < 1e-3


def test_relative_error_is_the_originals(golden):
  numbers = golden("photonics")
  found = density.relative_error(numbers["dos_output"], numbers["dos_target"])
  np.testing.assert_allclose(found, numbers["dos_relative_error"], rtol=1e-6)


def test_wrong_input_is_told(mpb_bands):
  with pytest.raises(UsageError, match="not a square grid"):
    density.density_of_states(
      mpb_bands._replace(k_points=mpb_bands.k_points[:5]), np.ones(6)
    )
  path = mpb_bands._replace(
    k_points=np.linspace(0, 0.5, 162).reshape(81, 2),
    frequencies=mpb_bands.frequencies[:, :81],
    group_velocities=mpb_bands.group_velocities[:, :81],
  )
  with pytest.raises(UsageError, match="81 k-points are not a square grid"):
    density.density_of_states(path, np.ones(6))
  for mean in (np.nan, np.inf, 0, -1):
    means = np.array([1, 2, 3, mean, 1, 1])
    with pytest.raises(UsageError, match=f"of cell 3 must be .*, got {mean}"):
      density.density_of_states(mpb_bands, means)
  with pytest.raises(UsageError, match="one value for each of the 6 cells"):
    density.density_of_states(mpb_bands, np.ones(5))
  with pytest.raises(ValueError, match="must have the same shape"):
    density.relative_error(np.ones((2, 400)), np.ones((3, 400)))
