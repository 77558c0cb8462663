"""Multinomial logistic regressions by L-BFGS, along a path of penalties."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax.evaluation import descent
from essl_jax.evaluation import features as features_lib

PENALTIES = tuple(np.logspace(-6, 5, 45).tolist())
"""Of which one is chosen; they multiply half the squared norm of the weights.

Kornblith et al. 2019 (arXiv 1805.08974), appendix A.6, have as many."""
_TOLERANCES = {"float32": 1e-5, "float64": 1e-7}


class Regressions(NamedTuple):
  """Linear layers, one for each penalty.

  Attributes:
    kernels: [K, D, C].
    intercepts: [K, C], which add up to 0 but for classes without an example,
      where they are minus infinity.
    steps: int32 [K], which L-BFGS took.
    is_converged: bool [K]; False where it stopped before the tolerance.
  """

  kernels: np.ndarray
  intercepts: np.ndarray
  steps: np.ndarray
  is_converged: np.ndarray

  def predict(self, features: np.ndarray) -> np.ndarray:
    """The classes of features [M, D] by each regression, int [K, M]."""
    width, count = self.kernels.shape[1], len(self.kernels)
    side_by_side = self.kernels.transpose(1, 0, 2).reshape(width, -1)
    scores = features @ side_by_side + self.intercepts.reshape(-1)
    return scores.reshape(len(features), count, -1).argmax(axis=2).T


class _Axes(NamedTuple):
  """An orthogonal change of features, which changes no norm of weights.

  Attributes:
    mean: [D], or [E, D] of several sets.
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
  """Minimises the mean cross entropy + penalty/2 |W|^2, intercepts free.

  This is scikit-learn's `LogisticRegression` with C = 1 / (penalty N). The
  largest penalty comes first, and each begins where the one before ended. What
  is computed is of float32, or of float64 where the features are and JAX has 64
  bits enabled. See `descent` for how features of any scale will do.

  Args:
    features: [N, D].
    labels: integers [N] in [0, num_classes).
    num_classes: C.
    penalties: K numbers above 0.
    examples: booleans [N]: the rows to learn from; all if not stated. Other
      rows of the same features compile nothing anew.
    tolerance: to which part of its first norm the gradient (of scaled weights)
      falls; 1e-5 in float32 and 1e-7 in float64 if not stated.
    max_steps: of L-BFGS, for each penalty.

  Returns:
    The layers, in the order of the penalties.

  Raises:
    ValueError: features and labels do not fit, are not finite, out of range or
      of one class alone; or a penalty is not a finite number above 0.
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
  # Rows without a weight may be of classes that nothing is known of.
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
    features: [E, N, D] of E sets.
    labels: integers [E, N]; each set has every class equally often.
    num_classes: C.
    penalty: as of `fit`, of all sets.

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
  """Those along which features [..., N, D] vary."""
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
  """Kernels [K, D, C] and intercepts [K, C] of the features as they were."""
  kernels = axes.axes @ turned[:, :-1]
  shift = np.einsum("...d,...dc->...c", axes.mean, kernels)
  intercepts = shares + turned[:, -1] - shift
  # The same for all classes says nothing: they add up to 0, as the kernels do.
  found = np.isfinite(shares)
  intercepts -= intercepts[:, found].mean(axis=1, keepdims=True)
  return kernels, intercepts
