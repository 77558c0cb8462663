"""Measures of collapse against hand-computed numbers and closed forms."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.data import subsets
from essl_jax.evaluation import collapse
from essl_jax.methods import method

pytestmark = pytest.mark.quick


def test_ranks_of_equal_singular_values():
  """The rank is their number; RankMe adds a little for the others."""
  orthogonal, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))
  for k in (1, 3, 7):
    equal = orthogonal[:, :k] @ np.eye(k, 10) * 5
    np.testing.assert_allclose(collapse.effective_rank(equal), k, rtol=1e-6)
    shares = np.array([1 / k + 1e-7] * k + [1e-7] * (10 - k))
    expected = np.exp(-(shares * np.log(shares)).sum())
    np.testing.assert_allclose(collapse.rankme(equal), expected, rtol=1e-6)
    assert collapse.rankme(equal) > k
  # Shares 3/4 and 1/4 by hand.
  two = np.diag([3.0, 1.0])
  np.testing.assert_allclose(
    collapse.effective_rank(two), 4 / 3**0.75, rtol=1e-12
  )


def test_identical_embeddings_are_collapsed():
  same = np.tile(np.array([[0.3, 1.7, -0.1]], np.float32), (50, 1))
  figures = collapse.of_features(same, 100)
  np.testing.assert_allclose(figures["feature_std"], 0, atol=1e-12)
  np.testing.assert_allclose(figures["uniformity"], 0, atol=1e-12)
  assert figures["effective_rank"] == 0
  np.testing.assert_allclose(figures["rankme"], 1, atol=1e-5)
  assert collapse.alignment(same, 3 * same) == pytest.approx(0)
  assert collapse.alignment(same, -same) == pytest.approx(4)
  assert collapse.rankme(np.zeros((4, 3))) == 0


@pytest.mark.parametrize("number", [2, 40, 1500])
def test_uniformity_of_points_on_a_circle(number):
  """Against the sum over distances, and Bessel's closed form for many."""
  angles = 2 * np.pi * np.arange(number) / number
  points = 7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
  expected = np.exp(-4 * (1 - np.cos(angles[1:]))).mean()
  found = collapse.uniformity(points)
  np.testing.assert_allclose(found, math.log(expected), rtol=1e-10)
  if number > 1000:
    np.testing.assert_allclose(found, -4 + math.log(np.i0(4)), atol=0.04)
  with pytest.raises(ValueError, match="two embeddings or more, got 1"):
    collapse.uniformity(points[:1])


def test_isotropic_features_spread_over_the_sphere():
  width = 32
  normal = np.random.default_rng(0).normal(size=(3000, width))
  figures = collapse.of_features(normal.astype(np.float32), 2000)
  np.testing.assert_allclose(figures["feature_std"], width**-0.5, rtol=0.02)
  np.testing.assert_allclose(figures["effective_rank"], width, rtol=0.01)
  # 0F1(D/2, t^2) of a sphere of D - 1 dimensions.
  terms = [1.0]
  for k in range(1, 30):
    terms.append(terms[-1] * 4 / (k * (width / 2 + k - 1)))
  expected = -4 + math.log(sum(terms))
  np.testing.assert_allclose(figures["uniformity"], expected, atol=0.01)
  # A sample: other figures than those of all.
  rows = subsets.sample_rows(3000, 2000)
  assert figures["rankme"] == pytest.approx(collapse.rankme(normal[rows]))
  np.testing.assert_allclose(
    collapse.embedding_std(normal),
    method.embedding_std(jnp.asarray(normal, jnp.float32)),
    rtol=1e-4,
  )


def test_a_common_mean_lowers_rankme_alone():
  normal = np.random.default_rng(0).normal(size=(500, 16))
  moved = collapse.of_features(normal + 100, 500)
  plain = collapse.of_features(normal, 500)
  np.testing.assert_allclose(
    moved["effective_rank"], plain["effective_rank"], rtol=1e-6
  )
  assert moved["rankme"] < 4 < 15 < plain["rankme"]
