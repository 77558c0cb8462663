"""Parameters of views as rows of numbers, and the terms that use them."""

import jax
import numpy as np
import pytest

from essl_jax import augment
from essl_jax.augment import DrawnView, View
from essl_jax.equivariance import vectors
from essl_jax.equivariance.differences import differences

pytestmark = pytest.mark.quick

FIRST = View(size=8, blur=0.5, groups=("rotation", "any_roll"))
SECOND = View(size=8, jitter=(0.8, 0.4, 0.4, 0.2), solarize=0.3)
STILL = augment.plain_view(FIRST)


def _drawn(view, seed=0, count=200, extra=None):
  key = jax.random.key(seed)
  drawn = augment.draw_parameters(key, count, (12, 16, 3), view, extra=extra)
  return DrawnView(drawn, view, extra)


def test_columns_are_those_of_all_views():
  """Crop, flip, jitter, grayscale, blur, solarize, four turns."""
  views = [FIRST, SECOND]
  found = [np.asarray(vectors.as_vector(_drawn(x), views)) for x in views]
  assert {x.shape for x in found} == {(200, 4 + 1 + 9 + 1 + 2 + 1 + 4)}
  for x in found:
    assert x.dtype == np.float32 and np.abs(x).max() <= 1
  first, second = found
  assert not first[:, 17].any()  # the first is not solarized,
  assert not second[:, 15:17].any()  # the second neither blurred
  np.testing.assert_array_equal(
    second[:, 18:], np.eye(4)[[0] * 200]
  )  # nor turned
  assert np.unique(first[:, 18:], axis=0).shape == (4, 4)
  alone = vectors.as_vector(_drawn(SECOND), [SECOND])
  assert alone.shape == (200, 4 + 1 + 9 + 1 + 1)


def test_columns_by_hand():
  drawn = _drawn(SECOND)
  given = drawn.parameters
  found = np.asarray(vectors.as_vector(drawn, [FIRST, SECOND]))
  crop = np.asarray(given.crop) / np.array([12, 16, 12, 16])
  np.testing.assert_allclose(found[:, :4], crop, rtol=1e-6)
  np.testing.assert_array_equal(found[:, 4], given.flip)
  np.testing.assert_array_equal(found[:, 5], given.jittered)
  np.testing.assert_allclose(
    found[:, 6], (given.brightness - 1) / 0.8, atol=1e-6
  )
  np.testing.assert_allclose(found[:, 9], given.hue / 0.2, atol=1e-6)
  places = np.where(
    np.asarray(given.jittered)[:, None],
    np.asarray(given.jitter_order) / 1.5 - 1,
    0,
  )
  np.testing.assert_allclose(found[:, 10:14], places, atol=1e-6)
  assert 0 < (~np.asarray(given.jittered)).sum() < 200
  np.testing.assert_array_equal(found[:, 14], given.grayscale)
  np.testing.assert_array_equal(found[:, 17], given.solarized)


def test_an_extra_group_has_columns():
  found = vectors.as_vector(_drawn(STILL, extra="inversion"), [STILL])
  assert found.shape == (200, 2) and 50 < found[:, 1].sum() < 150


def test_differences_in_a_row():
  """Ones, then the differences by name; rotations need both views."""
  first, second = _drawn(FIRST), _drawn(SECOND, seed=1)
  views = [FIRST, SECOND]
  found = np.asarray(vectors.as_difference(first, second, views))
  wanted = differences(
    first.parameters, second.parameters, jitter=(0.8, 0.4, 0.4, 0.2)
  )
  names = ("blur", "color", "crop", "flip", "sol")
  columns = [np.asarray(wanted[x]).reshape(200, -1) for x in names]
  expected = np.concatenate([np.ones((200, 1)), *columns], axis=1)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  turned = vectors.as_difference(first, _drawn(FIRST, seed=1), [FIRST] * 2)
  flags = np.asarray(turned)[:, -4:]
  assert turned.shape == (200, 1 + 1 + 4 + 4 + 1 + 4)
  np.testing.assert_array_equal(flags.sum(axis=1), np.ones(200))


def test_views_that_nothing_tells_apart():
  still = _drawn(STILL)
  with pytest.raises(ValueError, match="draw nothing in which they"):
    vectors.as_vector(still, [STILL, STILL])
  with pytest.raises(ValueError, match="draw nothing in which they"):
    vectors.as_difference(still, still, [STILL])
