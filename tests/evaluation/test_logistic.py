"""Logistic regressions of many penalties against scikit-learn's."""

import jax
import numpy as np
import pytest

from essl_jax.evaluation import logistic

CLASSES = 3
PENALTIES = (1e-6, 1e-3, 1e-1, 1e5)


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
  linear_model = pytest.importorskip("sklearn.linear_model")
  features, labels = examples
  train, test = slice(0, 120), slice(120, 240)
  with jax.enable_x64(bits == 64):
    found = logistic.fit(
      features[train].astype(f"float{bits}"),
      labels[train],
      num_classes=CLASSES,
      penalties=PENALTIES,
    )
  assert found.kernels.dtype == f"float{bits}" and found.is_converged.all()
  named = found.predict(features[test])
  for i, penalty in enumerate(PENALTIES):
    model = linear_model.LogisticRegression(
      C=1 / (penalty * 120), tol=1e-9, max_iter=20_000
    ).fit(features[train], labels[train])
    relative = 1e-3 if bits == 64 else 1e-2
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


def test_a_class_without_examples_is_never_named(examples):
  """And features that do not vary add nothing."""
  features, labels = examples
  constant = np.concatenate([features[:, :2], np.ones((240, 1))], axis=1)
  found = logistic.fit(
    constant.astype(np.float32),
    labels,
    num_classes=CLASSES + 1,
    penalties=(0.1, 10.0),
  )
  assert found.kernels.shape == (2, 3, 4)
  assert np.isneginf(found.intercepts[:, 3]).all()
  assert set(np.unique(found.predict(constant))) <= {0, 1, 2}
  np.testing.assert_allclose(found.kernels[:, 2], 0, atol=1e-6)
  np.testing.assert_array_equal(found.kernels[:, :, 3], 0)


def test_blocks_of_penalties_change_nothing(examples, monkeypatch):
  features, labels = examples
  fit = lambda: logistic.fit(
    features, labels, num_classes=CLASSES, penalties=(0.1, 1.0, 10.0)
  )
  whole = fit()
  monkeypatch.setattr(logistic, "_BLOCK_ELEMENTS", 2 * 240 * CLASSES)
  for x, y in zip(fit(), whole, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


def test_wrong_inputs_are_named(examples):
  features, labels = examples
  for penalties in ((), (0.0,), (1.0, np.inf), (-1.0,)):
    with pytest.raises(ValueError, match="penalties must be one or more"):
      logistic.fit(features, labels, num_classes=3, penalties=penalties)
  with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\)"):
    logistic.fit(features, labels, num_classes=2)
