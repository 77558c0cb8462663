"""Multinomial logistic regressions by L-BFGS along a path of penalties."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax.evaluation import descent
from essl_jax.evaluation import features as features_lib

PENALTIES = tuple(np.logspace(-6, 5, 45).tolist())
"""Penalties to choose from; each multiplies half the weights' squared norm.

Kornblith et al. 2019 (arXiv 1805.08974), appendix A.6, use as many."""
_TOLERANCES = {"float32": 1e-5, "float64": 1e-7}


class Regressions(NamedTuple):
  """Linear layers, one per penalty.

  Attributes:
    kernels: [K, D, C].
    intercepts: [K, C]; minus infinity for classes without an example, the
      others add up to 0.
    steps: int32 [K], steps that L-BFGS took.
    is_converged: bool [K]; False if it stopped before reaching the tolerance.
  """

  kernels: np.ndarray
  intercepts: np.ndarray
  steps: np.ndarray
  is_converged: np.ndarray

  def predict(self, features: np.ndarray) -> np.ndarray:
    """Predicts the classes of features [M, D] with each layer, int [K, M]."""
    width, count = self.kernels.shape[1], len(self.kernels)
    side_by_side = self.kernels.transpose(1, 0, 2).reshape(width, -1)
    scores = features @ side_by_side + self.intercepts.reshape(-1)
    return scores.reshape(len(features), count, -1).argmax(axis=2).T


class _Axes(NamedTuple):
  """An orthogonal change of axes, which preserves the norm of weights.

  Attributes:
    mean: [D], or [E, D] for several sets.
    axes: orthonormal columns [D, R], or [E, D, R].
  """

  mean: np.ndarray
  axes: np.ndarray

  def turn(self, features: np.ndarray) -> np.ndarray:
    """Features along the axes."""
    return (features - self.mean[..., None, :]) @ self.axes


def fit(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int,
  penalties: Sequence[float] = PENALTIES,
  examples: np.ndarray | None = None,
  tolerance: float | None = None,
  max_steps: int = 2000,
) -> Regressions:
  """Minimises the mean cross entropy + penalty/2 |W|^2, with free intercepts.

  This is scikit-learn's `LogisticRegression` with C = 1 / (penalty N). The
  largest penalty comes first, and each fit starts from the previous solution.
  The computation is in float32, or in float64 if the features are and JAX has
  64 bits enabled. `descent` explains why features may have any scale.

  Args:
    features: [N, D].
    labels: integers [N] in [0, num_classes).
    num_classes: C.
    penalties: K penalties above 0.
    examples: booleans [N]: the rows to learn from, by default all. Another
      choice of rows does not recompile.
    tolerance: stop once the norm of the gradient (of scaled weights) is this
      fraction of its initial value; by default 1e-5 in float32 and 1e-7 in
      float64.
    max_steps: most L-BFGS steps for each penalty.

  Returns:
    The layers, in the order of the penalties.

  Raises:
    ValueError: features and labels do not fit, are not finite, out of range or
      all of one class; or a penalty is not a finite number above 0.
  """
  features_lib.check("train", features, labels, num_classes)
  given, labels = np.asarray(features), np.asarray(labels)
  used = np.ones(len(labels), bool) if examples is None else examples
  counts = np.bincount(labels[used], minlength=num_classes)
  is_met = counts > 0
  if is_met.sum() < 2:
    raise ValueError(
      "the examples to learn from must be of two classes or more, got"
      f" {is_met.sum()}"
    )
  is_wide = given.dtype == np.float64 and jax.config.read("jax_enable_x64")
  dtype = np.dtype(np.float64 if is_wide else np.float32)
  axes = _principal_axes(given)
  with np.errstate(divide="ignore"):
    shares = np.log(counts / used.sum())
  shares = np.where(is_met, shares - shares[is_met].mean(), -np.inf)
  # Rows with weight 0 may belong to classes without examples.
  problem = descent.Problem(
    jnp.asarray(axes.turn(given), dtype),
    jnp.asarray(np.where(used, labels, np.argmax(is_met)), jnp.int32),
    jnp.asarray(used / used.sum(), dtype),
    jnp.asarray(shares, dtype),
    jnp.zeros((axes.axes.shape[-1] + 1, num_classes), dtype),
  )
  order = np.argsort(_checked(penalties))[::-1]
  solved = descent.solve(
    problem,
    jnp.asarray(np.asarray(penalties)[order], dtype),
    tolerance=tolerance or _TOLERANCES[dtype.name],
    max_steps=max_steps,
  )
  layers, steps, done = (x[np.argsort(order)] for x in jax.device_get(solved))
  kernels, intercepts = _as_layers(layers.astype(np.float64), shares, axes)
  return Regressions(
    kernels.astype(dtype), intercepts.astype(dtype), steps, done
  )


def fit_many(
  features: np.ndarray, labels: np.ndarray, *, num_classes: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
  """Fits many small sets at once, such as the episodes of few-shot learning.

  Args:
    features: [E, N, D], E sets.
    labels: integers [E, N]; each set has every class equally often.
    num_classes: C.
    penalty: penalty of all sets, as in `fit`.

  Returns:
    Kernels float32 [E, D, C] and intercepts [E, C].

  Raises:
    ValueError: shapes do not fit, features are not finite, labels are out of
      range or not balanced, or the penalty is not a finite number above 0.
  """
  e, n, d = np.shape(features)
  if np.shape(labels) != (e, n):
    raise ValueError(
      f"labels must be [{e}, {n}], as features, got {np.shape(labels)}"
    )
  given, labels = np.asarray(features), np.asarray(labels)
  features_lib.check(
    "train", given.reshape(-1, d), labels.reshape(-1), num_classes
  )
  counts = (labels[..., None] == np.arange(num_classes)).sum(axis=1)
  if num_classes < 2 or np.ptp(counts):
    raise ValueError("every set must have every class equally often")
  axes = _principal_axes(given)
  problems = descent.Problem(
    jnp.asarray(axes.turn(given), jnp.float32),
    jnp.asarray(labels, jnp.int32),
    jnp.full((e, n), 1 / n, jnp.float32),
    jnp.zeros((e, num_classes), jnp.float32),
    jnp.zeros((e, axes.axes.shape[-1] + 1, num_classes), jnp.float32),
  )
  layers, *_ = descent.solve_many(
    problems,
    jnp.asarray(_checked([penalty]), jnp.float32),
    tolerance=_TOLERANCES["float32"],
    max_steps=200,
  )
  kernels, intercepts = _as_layers(
    np.asarray(layers)[:, 0], np.zeros(num_classes), axes
  )
  return kernels.astype(np.float32), intercepts.astype(np.float32)


def _checked(penalties: Sequence[float]) -> np.ndarray:
  if not len(penalties) or not all(0 < x < np.inf for x in penalties):
    raise ValueError(
      f"penalties must be one or more finite numbers above 0, got {penalties}"
    )
  return np.asarray(penalties)


def _principal_axes(features: np.ndarray) -> _Axes:
  """The principal axes along which features [..., N, D] vary."""
  wide = np.asarray(features, np.float64)
  mean = wide.mean(axis=-2)
  centered = wide - mean[..., None, :]
  number, width = centered.shape[-2:]
  if number <= width:
    _, deviations, rows = np.linalg.svd(centered, full_matrices=False)
    axes, values = rows.swapaxes(-1, -2), deviations**2
  else:
    products = centered.swapaxes(-1, -2) @ centered
    values, axes = np.linalg.eigh(products)
  least = width * np.finfo(np.float64).eps * values.max(initial=0)
  varies = (values > least).reshape(-1, values.shape[-1]).any(axis=0)
  return _Axes(mean, axes[..., varies])


def _as_layers(
  turned: np.ndarray, shares: np.ndarray, axes: _Axes
) -> tuple[np.ndarray, np.ndarray]:
  """Kernels [K, D, C] and intercepts [K, C] for the original features."""
  kernels = axes.axes @ turned[:, :-1]
  shift = np.einsum("...d,...dc->...c", axes.mean, kernels)
  intercepts = shares + turned[:, -1] - shift
  # A constant for all classes has no effect: make intercepts add up to 0, as
  # kernels do.
  found = np.isfinite(shares)
  intercepts -= intercepts[:, found].mean(axis=1, keepdims=True)
  return kernels, intercepts
