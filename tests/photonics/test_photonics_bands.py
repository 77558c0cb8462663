"""Photonic bands against MPB, scaling, symmetry, devices, wrong input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.errors import UsageError
from essl_jax.photonics import bands, cells


@pytest.fixture(scope="module")
def mpb(golden):
  return golden("mpb_bands")


@pytest.fixture(scope="module")
def solved(mpb):
  return bands.solve(mpb["epsilon"])


def test_k_points_are_those_of_the_benchmark(mpb):
  np.testing.assert_allclose(bands.k_grid(), mpb["k_points"], atol=1e-12)


def test_frequencies_are_mpbs(mpb, solved):
  expected = mpb["frequencies"]
  is_zero = expected == 0  # the lowest band at k = 0
  assert np.all(solved.frequencies[is_zero] == 0)
  error = np.abs(solved.frequencies / np.where(is_zero, 1, expected) - 1)
  assert error[~is_zero].max() < 5e-4
  assert error[~is_zero].mean() < 2e-5


def test_group_velocities_are_mpbs_where_bands_are_apart(mpb, solved):
  expected = mpb["group_velocities"]
  difference = np.linalg.norm(solved.group_velocities - expected, axis=-1)
  total = np.linalg.norm(expected, axis=-1)
  assert difference.sum() / total.sum() < 1e-3
  gaps = np.diff(mpb["frequencies"], axis=-1)
  # The 11th band is unknown, so the 10th's distance to it is too.
  apart = np.minimum(gaps[..., 1:], gaps[..., :-1]) > 5e-3
  assert difference[..., 1:-1][apart].max() < 1e-2 * total.mean()


def test_more_plane_waves_come_closer_to_mpb(mpb):
  k = mpb["k_points"][::101]
  expected = mpb["frequencies"][:2, ::101]
  error = [
    np.abs(
      bands.solve(
        mpb["epsilon"][:2], k_points=k, plane_waves=n, method="full"
      ).frequencies
      / expected
      - 1
    ).max()
    for n in (9, 15, 21)
  ]
  assert error[0] > 2 * error[1] > 4 * error[2]
  assert error[2] < 2e-5


def test_19_plane_waves_err_most_at_high_contrast():
  cell = cells.make("blob", 5, "test", 21)[None]  # 1.15 and 19: a bad case
  k = np.array([[0.13, 0.21], [-0.32, 0.07]])
  few, many = (
    bands.solve(cell, k_points=k, plane_waves=n, method="full").frequencies
    for n in (19, 31)
  )
  assert 1e-3 < np.abs(few / many - 1).max() < 5e-3


def test_the_reduced_basis_is_close_to_the_full_solution(mpb):
  k = bands.k_grid()[5::47]
  full = bands.solve(mpb["epsilon"][:2], k_points=k, method="full")
  reduced = bands.solve(mpb["epsilon"][:2], k_points=k)
  error = reduced.frequencies / full.frequencies - 1
  assert error.min() > -1e-9  # Rayleigh-Ritz frequencies are too high
  assert error.max() < 2e-4


def test_the_reduced_basis_holds_near_k_0_at_high_contrast():
  made = np.stack([cells.make("gpm", 0, "test", i) for i in (1, 4)])
  k = np.array([[0.04, 0], [-0.04, 0], [0, 0.04]])
  full = bands.solve(made, k_points=k, method="full")
  reduced = bands.solve(made, k_points=k)
  np.testing.assert_allclose(reduced.frequencies, full.frequencies, rtol=2e-4)


def test_velocities_are_derivatives_of_frequencies(mpb):
  k, step = np.array([[0.13, 0.21], [-0.32, -0.07]]), 1e-4
  at = lambda shift: bands.solve(mpb["epsilon"][:1], k_points=k + shift)
  for axis in (0, 1):
    shift = step * np.eye(2)[axis]
    slope = (at(shift).frequencies - at(-shift).frequencies) / (2 * step)
    np.testing.assert_allclose(
      at(0 * shift).group_velocities[..., axis], slope, atol=1e-4
    )


def test_bands_of_minus_k_are_mirrored(solved):
  minus = solved.frequencies[:, ::-1]
  np.testing.assert_array_equal(solved.frequencies, minus)
  # At k = 0, its own mirror image, the solver picks a direction.
  velocities = np.delete(solved.group_velocities, 312, axis=1)
  np.testing.assert_array_equal(velocities, -velocities[:, ::-1])


def test_k_points_of_other_zones_have_the_same_bands(mpb):
  k = np.array([[0.1, 0.3]])
  here = bands.solve(mpb["epsilon"][:1], k_points=k)
  there = bands.solve(mpb["epsilon"][:1], k_points=k + [[1, -2]])
  np.testing.assert_allclose(here.frequencies, there.frequencies, rtol=1e-9)


def test_permittivity_scales_frequencies(mpb, solved):
  scaled = bands.solve(2.7 * mpb["epsilon"].astype(np.float64))
  np.testing.assert_allclose(
    2.7**0.5 * scaled.frequencies, solved.frequencies, rtol=1e-9
  )


def test_uniform_cells_have_the_bands_of_free_space():
  k = np.array([[0.2, 0.1]])
  found = bands.solve(np.full((1, 32, 32), 4.0), k_points=k, num_bands=5)
  g = np.array([[0, 0], [-1, 0], [0, -1], [0, 1], [1, 0], [-1, -1]])
  expected = np.sort(np.linalg.norm(k + g, axis=1))[:5] / 2
  np.testing.assert_allclose(found.frequencies[0, 0], expected, rtol=1e-6)


def test_the_programs_precision_is_untouched(mpb):
  found = bands.solve(mpb["epsilon"][:1], k_points=np.array([[0.1, 0.2]]))
  assert found.frequencies.dtype == np.float64
  assert jnp.ones(1).dtype == jnp.float32
  assert jnp.asarray(found.frequencies).dtype == jnp.float32
  assert not jax.config.jax_enable_x64


def test_devices_share_the_cells(mpb):
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("cells",))
  given = mpb["epsilon"]  # 6 cells are not divisible by 4
  k = bands.k_grid()[::60]
  alone = bands.solve(given, k_points=k)
  shared = bands.solve(given, k_points=k, mesh=mesh)
  np.testing.assert_allclose(
    shared.frequencies, alone.frequencies, rtol=1e-10, atol=1e-12
  )


@pytest.mark.parametrize(
  ("cell", "settings", "message"),
  [
    (np.full((1, 32, 32), 0.5), {}, "at least 1 .vacuum., got 0.5"),
    (np.full((1, 32, 32), np.nan), {}, "not finite"),
    (np.ones((1, 32, 31)), {}, "must be of square cells"),
    (np.ones((32, 32)), {}, "must be of square cells"),
    (np.ones((1, 32, 32)), {"plane_waves": 3}, "num_bands 10 must be 1 to 5"),
    (np.ones((1, 32, 32)), {"plane_waves": 16}, "must be odd"),
    (np.ones((1, 8, 8)), {"plane_waves": 9}, "at most the 8 pixels"),
    (np.ones((1, 32, 32)), {"num_bands": 0}, "num_bands 0"),
    (np.ones((1, 32, 32)), {"method": "fast"}, "must be one of reduced, full"),
    (np.ones((1, 32, 32)), {"k_points": np.ones(2)}, r"must be \[K, 2\]"),
    (np.ones((1, 32, 32)), {"k_points": np.ones((0, 2))}, r"must be \[K, 2\]"),
    (np.ones((1, 32, 32)), {"k_points": [[np.nan, 0]]}, "k_points must be fin"),
    (np.ones((1, 32, 32)), {"num_bands": 2.5}, "num_bands 2.5 must be a whole"),
    (np.full((1, 32, 32), 2 + 1j), {}, "permittivity is complex: give real"),
  ],
)
def test_wrong_input_is_told_in_one_line(cell, settings, message):
  with pytest.raises(UsageError, match=message) as caught:
    bands.solve(cell, **settings)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", cells.KINDS)
def test_cells_depend_on_all_that_names_them(kind):
  names = [
    (kind, seed, split, index)
    for seed in (0, 1)
    for split in cells.SPLITS
    for index in range(3)
  ]
  made = [cells.make(*name).tobytes() for name in names]
  assert len(set(made)) == len(made)
  assert cells.make(*names[5]).tobytes() == made[5]


@pytest.mark.parametrize("kind", cells.KINDS)
def test_cells_hold_two_materials_and_their_means(kind):
  made = np.stack([cells.make(kind, 3, "train", i) for i in range(20)])
  assert made.dtype == np.float32 and made.shape == (20, 32, 32)
  assert made.min() >= 1 and made.max() <= 20
  low, high = made.min((1, 2)), made.max((1, 2))
  share = (made - low[:, None, None]) / (high - low)[:, None, None]
  np.testing.assert_allclose(share * 64, np.round(share * 64), atol=2e-2)


def test_gpm_cells_are_mirrored_exactly():
  made = np.stack([cells.make("gpm", 0, "test", i) for i in range(20)])
  np.testing.assert_array_equal(made, made[:, ::-1])
  assert not np.array_equal(made, made[:, :, ::-1])


def test_blobs_lie_at_the_centre():
  for index in range(10):
    cell = cells.make("blob", 0, "test", index)
    border = np.concatenate([cell[0], cell[-1], cell[:, 0], cell[:, -1]])
    assert np.all(border == border[0])
    assert np.all(cell[15:17, 15:17] != border[0])


@pytest.mark.parametrize(
  ("name", "message"),
  [
    (("star", 0, "test", 0), "generic, gpm, blob"),
    (("blob", 0, "tests", 0), "unlabelled, train"),
    (("blob", -1, "test", 0), "seed -1"),
  ],
)
def test_wrong_cells_are_told(name, message):
  with pytest.raises(UsageError, match=message):
    cells.make(*name)
