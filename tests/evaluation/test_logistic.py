"""Logistic regressions of many penalties against scikit-learn's."""

import jax
import logistic_helpers
import numpy as np
import pytest
import xla_flags

from essl_jax import data
from essl_jax.evaluation import descent, logistic

CLASSES = 3
PENALTIES = (1e-6, 1e-4, 1e-3, 1e-1, 10.0, 1e5)


@pytest.fixture(scope="module")
def examples():
  """Overlapping classes off the origin, in axes of very different spread."""
  random = np.random.default_rng(0)
  labels = random.choice(CLASSES, 240, p=(0.6, 0.3, 0.1))
  centers = random.normal(size=(CLASSES, 6))
  noise = random.normal(size=(240, 6)) * np.logspace(-1, 1, 6)
  turn, _ = np.linalg.qr(random.normal(size=(6, 6)))
  features = (centers[labels] * np.logspace(-1, 1, 6) + noise) @ turn + 5
  return features, labels


@pytest.mark.parametrize("bits", [32, 64])
def test_against_scikit_learn(examples, bits):
  features, labels = examples
  train, test = slice(0, 120), slice(120, 240)
  with jax.enable_x64(bits == 64):
    found = logistic.fit(
      features.astype(f"float{bits}"),
      labels,
      num_classes=CLASSES,
      penalties=PENALTIES,
      examples=np.arange(240) < 120,
    )
  assert found.kernels.dtype == f"float{bits}" and found.is_converged.all()
  named = found.predict(features[test])
  for i, penalty in enumerate(PENALTIES):
    model = logistic_helpers.theirs(features[train], labels[train], penalty)
    relative = 1e-3 if bits == 64 else 2e-3
    bound = relative * np.abs(model.coef_).max()
    if penalty >= 1e-3:
      np.testing.assert_allclose(
        found.kernels[i], model.coef_.T, rtol=0, atol=bound
      )
      np.testing.assert_allclose(
        found.intercepts[i], model.intercept_, rtol=relative, atol=bound
      )
    expected = model.predict(features[test])
    assert (
      abs(np.mean(expected == labels[test]) - np.mean(named[i] == labels[test]))
      < 2e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 64])
def test_real_digits_against_scikit_learn(bits):
  """Of classes that come apart, at every penalty of the protocol."""
  source = data.load_digits()
  x = source.train_images[..., 0].reshape(-1, 64) / 16.0
  test = source.test_images[..., 0].reshape(-1, 64) / 16.0
  labels = source.train_labels
  with jax.enable_x64(bits == 64):
    found = logistic.fit(
      x.astype(f"float{bits}"), np.asarray(labels), num_classes=10
    )
  assert found.is_converged.all()
  named = found.predict(test)
  for i, penalty in enumerate(logistic.PENALTIES):
    model = logistic_helpers.theirs(x, labels, penalty)
    if penalty >= 1e-3 and bits == 64:
      bound = 1e-3 * np.abs(model.coef_).max()
      np.testing.assert_allclose(found.kernels[i], model.coef_.T, atol=bound)
    hits = np.mean(named[i] == source.test_labels)
    assert abs(hits - model.score(test, source.test_labels)) <= 2e-3, penalty


def test_a_class_without_examples_is_never_named(examples):
  """Rows to learn from may lack a class, and features may not vary."""
  features, labels = examples
  features = np.where(np.arange(6) == 2, 1.0, features)
  used = (np.arange(240) % 3 > 0) & (labels < 2)
  found = logistic.fit(
    features.astype(np.float32),
    labels,
    num_classes=CLASSES,
    penalties=PENALTIES,
    examples=used,
  )
  assert found.is_converged.all()
  assert np.isneginf(found.intercepts[:, 2]).all()
  assert set(np.unique(found.predict(features))) <= {0, 1}
  np.testing.assert_allclose(found.kernels[:, 2], 0, atol=1e-6)
  np.testing.assert_array_equal(found.kernels[:, :, 2], 0)
  # Of two classes this is the usual regression: its slope at the end is 0.
  x, is_second = features[used], labels[used] == 1
  for i, penalty in enumerate(PENALTIES[2:], 2):
    kernel, intercept = found.kernels[i], found.intercepts[i]
    score = x @ (kernel[:, 1] - kernel[:, 0]) + intercept[1] - intercept[0]
    pull = 1 / (1 + np.exp(-score)) - is_second
    slope = x.T @ pull / len(x) + penalty * kernel[:, 1]
    np.testing.assert_allclose(slope, 0, atol=1e-4)
    assert abs(pull.mean()) < 1e-5


def test_a_hessian_that_is_too_large_changes_nothing(examples, monkeypatch):
  """And penalties may come in any order."""
  features, labels = examples
  fit = lambda rows, **options: logistic.fit(
    features[:rows],
    labels[:rows],
    num_classes=CLASSES,
    tolerance=1e-5,
    **options,
  )
  whole = fit(240, penalties=PENALTIES, examples=np.arange(240) < 239)
  monkeypatch.setattr(descent, "LARGEST_HESSIAN", 0)
  chosen = [4, 2, 3, 5, 2, 2]
  found = fit(239, penalties=[PENALTIES[i] for i in chosen])
  assert whole.is_converged.all() and found.is_converged.all()
  for kernel, i in zip(found.kernels, chosen, strict=True):
    expected = whole.kernels[i]
    bound = 1e-2 * np.abs(expected).max()
    np.testing.assert_allclose(kernel, expected, atol=bound)


def test_many_sets_are_solved_as_each_alone(examples):
  features, _ = examples
  random = np.random.default_rng(3)
  rows = random.integers(0, 240, (4, 6))
  labels = np.tile(np.repeat(np.arange(3), 2), (4, 1))
  kernels, intercepts = logistic.fit_many(
    features[rows], labels, num_classes=3, penalty=0.1
  )
  for i in range(4):
    model = logistic_helpers.theirs(features[rows[i]], labels[i], 0.1)
    bound = 1e-3 * np.abs(model.coef_).max()
    np.testing.assert_allclose(kernels[i], model.coef_.T, atol=bound)
    np.testing.assert_allclose(intercepts[i], model.intercept_, atol=20 * bound)
  with pytest.raises(ValueError, match="every class equally often"):
    logistic.fit_many(
      features[rows], np.zeros((4, 6), int), num_classes=3, penalty=1.0
    )
  with pytest.raises(ValueError, match=r"labels must be \[4, 6\]"):
    logistic.fit_many(features[rows], labels[:3], num_classes=3, penalty=1.0)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
  "number, width, classes", [(899, 60, 10), (64, 40, 99)]
)
def test_one_penalty_as_users_compile_it(
  monkeypatch, number, width, classes, bits
):
  """No fusion of XLA's may know the first layer, and take it for a constant."""
  solve = jax.jit(
    descent.solve,
    static_argnames="max_steps",
    compiler_options=xla_flags.OPTIMISED,
  )
  monkeypatch.setattr(descent, "solve", solve)
  random = np.random.default_rng(4)
  features = random.normal(size=(number, width)).astype(f"float{bits}")
  labels = random.integers(0, classes, number)
  with jax.enable_x64(bits == 64):
    found = logistic.fit(
      features, labels, num_classes=classes, penalties=(0.1,)
    )
  assert found.is_converged.all()
  scores = features @ found.kernels[0] + found.intercepts[0]
  chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
  pull = (chances - (labels[:, None] == np.arange(classes))) / number
  slope = features.T @ pull + 0.1 * found.kernels[0]
  first = features.T @ (labels[:, None] == np.arange(classes)) / number
  assert np.linalg.norm(slope) < 1e-4 * np.linalg.norm(first)


def test_wrong_inputs_are_named(examples):
  features, labels = examples
  for penalties in ((), (0.0,), (1.0, np.inf), (-1.0,)):
    with pytest.raises(ValueError, match="penalties must be one or more"):
      logistic.fit(features, labels, num_classes=3, penalties=penalties)
  with pytest.raises(ValueError, match=r"labels must be in \[0, 2\)"):
    logistic.fit(features, labels, num_classes=2)
  with pytest.raises(ValueError, match="two classes or more, got 1"):
    logistic.fit(features, labels, num_classes=3, examples=labels == 1)
