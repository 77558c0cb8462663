"""Measures of features that have collapsed, in every way that features can.

Right is the worst value of each measure, as docs/evaluation.md lists them:
features that are zero have no direction, and rounding is no variation.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.evaluation import collapse, knn, symmetry
from essl_jax.methods import method
from essl_jax.report import analysis

pytestmark = pytest.mark.quick

NUMBER, WIDTH, ELEMENTS = 40, 8, 3
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.normal(size=(NUMBER, WIDTH))
ROW = RANDOM.uniform(0.5, 2, WIDTH)
IS_ZERO = np.arange(NUMBER)[:, None] % 2 == 0
COLLAPSED = {
  "zeros": np.zeros((NUMBER, WIDTH)),
  "nearly zeros": 1e-200 * NOISE,
  "subnormal": 1e-44 * NOISE,
  "constants": np.tile(ROW, (NUMBER, 1)),
  "lengths": np.tile(ROW, (NUMBER, 1)) * RANDOM.uniform(1, 2, (NUMBER, 1)),
  "rounded by float32": ROW * (1 + 1e-7 * NOISE),
  "rounded by bfloat16": ROW * (1 + 5e-4 * NOISE),
  "half zeros": np.where(IS_ZERO, 0, ROW),
  "half nearly zeros": np.where(IS_ZERO, 1e-8 * NOISE, ROW),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", COLLAPSED)
def test_collapsed_features_have_the_worst_values(name, dtype):
  features = COLLAPSED[name].astype(dtype)
  found = collapse.of_features(features, NUMBER)
  assert found["feature_std"] < 1e-3
  assert -1e-3 < found["uniformity"] <= 0
  assert found["effective_rank"] < 1.001
  if "bfloat16" not in name:  # which rounds to a few small singular values
    assert found["rankme"] < 1.001
  assert collapse.alignment(features, features) == 0
  values, rank = analysis.spectrum(features)
  assert rank < 1.001 and np.isfinite(values).all()


@pytest.mark.parametrize("name", COLLAPSED)
def test_collapsed_features_are_as_symmetric_as_constants(name):
  """The cosine to other images is that to the transformed one: 1."""
  features = np.repeat(COLLAPSED[name][:, None], ELEMENTS, axis=1)
  found = symmetry.measure(features, features)
  np.testing.assert_allclose(found["cosine"], 1, atol=1e-4)
  np.testing.assert_allclose(found["cosine_other_images"], 1, atol=1e-4)
  np.testing.assert_allclose(found["readout_accuracy"], found["chance"])
  if "half" not in name and name != "lengths":  # these vary, in one direction
    assert found["equivariance_r2"] == found["identity_r2"] == 0


def test_rankings_of_collapsed_features_are_guesses():
  """Equal neighbours vote in the order of the bank."""
  labels = np.arange(NUMBER) // 10
  for name in ("zeros", "constants"):
    features = COLLAPSED[name].astype(np.float32)
    found = knn.run(
      features, labels, features, labels, num_classes=4, k=10, temperature=0.1
    )
    assert found["knn_top1"] == 25, name


def test_zeros_among_spread_features_count_as_collapsed():
  """Each pair with one of them, and no pair without."""
  half = np.where(IS_ZERO, 0, NOISE)
  rest = NOISE[1::2]
  pairs = NUMBER * (NUMBER - 1)
  part = len(rest) * (len(rest) - 1) / pairs
  expected = 1 - part + part * np.exp(collapse.uniformity(rest))
  np.testing.assert_allclose(collapse.uniformity(half), np.log(expected))
  expected = 1 - part + part * symmetry.cosine_of_pairs(rest)
  np.testing.assert_allclose(symmetry.cosine_of_pairs(half), expected)
  np.testing.assert_allclose(
    collapse.embedding_std(half), collapse.embedding_std(rest) / 2**0.5
  )
  # The scale of all features says nothing.
  for scale in (1e-9, 1e9):
    np.testing.assert_allclose(
      collapse.uniformity(scale * half), collapse.uniformity(half)
    )
  assert collapse.alignment(half, NOISE) == pytest.approx(0.5)


def test_the_training_metric_counts_zeros_likewise():
  for name in ("zeros", "constants", "half zeros"):
    features = jnp.asarray(COLLAPSED[name], jnp.float32)
    assert method.embedding_std(features) < 1e-3, name
  half = np.where(IS_ZERO, 0, NOISE)
  found = method.embedding_std(jnp.asarray(half, jnp.float32))
  expected = collapse.embedding_std(half)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  # Lengths beyond the squares of float32 are no collapse.
  found = method.embedding_std(jnp.asarray(1e30 * half, jnp.float32))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(wrong):
  """One row of them is no collapse of the others."""
  features = NOISE.copy()
  features[3, 2] = wrong
  for function in (
    collapse.embedding_std,
    collapse.effective_rank,
    collapse.rankme,
    collapse.uniformity,
    lambda x: collapse.alignment(x, NOISE),
    lambda x: collapse.of_features(x, NUMBER),
    symmetry.cosine_of_pairs,
    lambda x: symmetry.explained(x, x),
    lambda x: symmetry.measure(x[:, None].repeat(2, 1), x[:, None]),
  ):
    with pytest.raises(ValueError, match="features must be finite"):
      function(features)


def test_no_features_have_no_measures():
  for wrong in (NOISE[:0], NOISE[:, :0], NOISE[0]):
    for function in (
      collapse.embedding_std,
      collapse.effective_rank,
      collapse.rankme,
      collapse.uniformity,
      symmetry.cosine_of_pairs,
    ):
      with pytest.raises(ValueError, match=r"must be \[N, D\] and not empty"):
        function(wrong)
  with pytest.raises(ValueError, match="two rows or more"):
    symmetry.cosine_of_pairs(NOISE[:1])
