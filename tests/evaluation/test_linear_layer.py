"""The linear layer and the probe of cached features."""

import functools

from evaluation_helpers import (
  clusters,
)
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.evaluation import linear_layer
from essl_jax.evaluation.recipe import Recipe


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_fast_probe_separates_features_of_any_scale(scale):
  train, test = clusters(700), clusters(203, seed=1)
  scales = scale * np.logspace(-2, 2, 32, dtype=np.float32)
  figures = linear_layer.fit_features(
    train[0] * scales + 3 * scale,
    train[1],
    test[0] * scales + 3 * scale,
    test[1],
    num_classes=7,
    recipe=Recipe(epochs=20, repetitions=1),
  )
  assert figures["linear_top1"] > 98
  assert figures["linear_top5"] >= figures["linear_top1"]


def test_fast_probe_is_at_chance_on_random_labels():
  rng = np.random.default_rng(4)
  train, test = (rng.standard_normal((500, 16)) for _ in range(2))
  train_labels, test_labels = (rng.integers(0, 5, 500) for _ in range(2))
  figures = linear_layer.fit_features(
    train,
    train_labels,
    test,
    test_labels,
    num_classes=5,
    recipe=Recipe(epochs=5, repetitions=1),
  )
  # Four standard deviations of a binomial around one in five.
  assert abs(figures["linear_top1"] - 20) < 7.2
  assert "linear_top5" not in figures


def test_fast_probe_follows_a_plain_loop_with_a_smaller_last_batch():
  train, labels = clusters(23, width=6, spread=1.0)
  key = jax.random.key(5)
  recipe = Recipe(epochs=3, batch_size=10, learning_rate=0.7, weight_decay=0.01)
  layer = linear_layer.fit(
    key, train, jnp.asarray(labels), recipe=recipe, num_classes=7
  )
  weights_key, order_key = jax.random.split(key)
  expected = linear_layer.initial_layer(weights_key, 6, 7)
  expected = {name: np.asarray(x, np.float64) for name, x in expected.items()}
  assert np.abs(expected["kernel"]).max() <= 6**-0.5
  velocity = {name: np.zeros_like(x) for name, x in expected.items()}
  step = 0
  for epoch in range(3):
    order = jax.random.permutation(jax.random.fold_in(order_key, epoch), 23)
    for first in (0, 10, 20):
      rows = np.asarray(order)[first : first + 10]
      logits = train[rows] @ expected["kernel"] + expected["bias"][None]
      odds = np.exp(logits - logits.max(1, keepdims=True))
      error = odds / odds.sum(1, keepdims=True) - np.eye(7)[labels[rows]]
      gradient = {
        "kernel": train[rows].T @ error / len(rows),
        "bias": error.mean(0),
      }
      rate = 0.35 * (1 + np.cos(np.pi * step / 9))
      for name in expected:
        slope = gradient[name] + 0.01 * expected[name]
        velocity[name] = 0.9 * velocity[name] + slope
        expected[name] = expected[name] - rate * velocity[name]
      step += 1
  for name in expected:
    np.testing.assert_allclose(
      layer[name], expected[name], rtol=1e-4, atol=1e-5
    )


def test_fast_probe_is_exact_deterministic_and_varies_between_repetitions():
  train, test = clusters(300, spread=1.5), clusters(67, spread=1.5, seed=1)
  fit = functools.partial(
    linear_layer.fit_features,
    *train,
    *test,
    num_classes=7,
    recipe=Recipe(epochs=2, repetitions=4),
  )
  first, again, other = (fit(seed=seed) for seed in (0, 0, 1))
  assert first == again
  assert first["linear_top1_each"] != other["linear_top1_each"]
  each = first["linear_top1_each"]
  assert len(each) == 4 and len(set(each)) > 1
  counts = np.array(each) * 67 / 100
  np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
  assert first["linear_top1"] == pytest.approx(np.mean(each))
  assert first["linear_top1_std"] == pytest.approx(np.std(each, ddof=1))
  assert first["protocol"] == "fast" and first["num_test"] == 67


def test_counting_agrees_with_numpy_and_breaks_ties_downwards():
  rng = np.random.default_rng(6)
  layer = {
    "kernel": jnp.asarray(rng.standard_normal((4, 9)), jnp.float32),
    "bias": jnp.asarray(rng.standard_normal(9), jnp.float32),
  }
  inputs = rng.standard_normal((41, 4)).astype(np.float32)
  labels = rng.integers(0, 9, 41)
  logits = inputs @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
  ranked = np.argsort(-logits, axis=1)
  hits = ranked == labels[:, None]
  found = linear_layer.count_correct(layer, inputs, labels)
  assert found == (hits[:, :1].sum(), hits[:, :5].sum())
  flat = jax.tree.map(jnp.zeros_like, layer)
  found = linear_layer.count_correct(flat, inputs, labels)
  assert found == ((labels < 1).sum(), (labels < 5).sum())
  with pytest.raises(FloatingPointError, match="diverged"):
    linear_layer.count_correct(
      jax.tree.map(lambda x: x * jnp.nan, layer), inputs, labels
    )


def test_fit_features_refuses_what_does_not_fit():
  train, test = clusters(20), clusters(10)
  fit = functools.partial(
    linear_layer.fit_features, num_classes=7, recipe=Recipe()
  )
  with pytest.raises(ValueError, match=r"train .*\(20, 32\) and \(19,\)"):
    fit(train[0], train[1][1:], *test)
  with pytest.raises(ValueError, match=r"\(20, 32\).*\(10, 31\)"):
    fit(*train, test[0][:, 1:], test[1])
  with pytest.raises(ValueError, match=r"\[0, 5\)"):
    fit(*train, *test, num_classes=5)
  with pytest.raises(ValueError, match="epochs=0"):
    Recipe(epochs=0)
