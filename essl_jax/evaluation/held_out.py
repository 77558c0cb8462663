"""Logistic regressions whose penalty is chosen on held-out examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from essl_jax.data import subsets
from essl_jax.evaluation import logistic
from essl_jax.evaluation.bench import Labelled


def hold_out(labels: np.ndarray, share: float) -> np.ndarray:
  """Chooses a part of every class that has two examples or more.

  Every class keeps an example to learn from.

  Args:
    labels: integers [N].
    share: of each class, at least one example.

  Returns:
    Booleans [N], the same on every machine; see `data.subsets.choose`.
  """
  held = np.zeros(len(labels), bool)
  held[subsets.choose(labels, share)] = True
  _, firsts, numbers, counts = np.unique(
    labels, return_index=True, return_inverse=True, return_counts=True
  )
  is_whole = np.bincount(numbers, held) == counts
  held[firsts[is_whole]] = False
  return held


def accuracy(named: np.ndarray, labels: np.ndarray) -> float:
  """How many classes are predicted correctly, in percent.

  Args:
    named: predicted classes [M].
    labels: integers [M].

  Returns:
    A number.
  """
  return 100 * float(np.mean(named == labels))


def mean_per_class(named: np.ndarray, labels: np.ndarray) -> float:
  """The mean over classes of `accuracy` within each; arguments likewise."""
  hits, counts = (
    np.bincount(labels, weights) for weights in (named == labels, None)
  )
  return 100 * float(np.mean(hits[counts > 0] / counts[counts > 0]))


def regress(
  train: Labelled,
  test: Labelled,
  held_out: np.ndarray,
  *,
  num_classes: int,
  per_class: bool = False,
  penalties: Sequence[float] = logistic.PENALTIES,
) -> dict[str, Any]:
  """Chooses a penalty on examples that are held out, and tests once.

  The tested regression is fitted on all examples. If none is held out, the
  penalty is scikit-learn's default, one over their number.

  Args:
    train: features [N, D] and labels [N].
    test: features [M, D] and labels [M].
    held_out: booleans [N]; the others are of two classes or more.
    num_classes: number of classes.
    per_class: whether the metric is `mean_per_class` instead of `accuracy`.
    penalties: as for `logistic.fit`.

  Returns:
    The `accuracy` of the test examples by that metric, the `penalty`, the
    `validation_accuracy` of those held out, None if there are none, `num_train`
    and `num_validation`, of all and of those held out, and whether the
    regression `is_converged`.

  Raises:
    ValueError: as for `logistic.fit`.
  """
  (features, labels), measure = train, mean_per_class if per_class else accuracy
  fit = lambda **options: logistic.fit(
    features, labels, num_classes=num_classes, **options
  )
  chosen, validation = 1 / len(labels), None
  if held_out.any():
    path = np.sort(penalties)[::-1]
    named = fit(penalties=path, examples=~held_out).predict(features[held_out])
    found = [measure(x, labels[held_out]) for x in named]
    best = int(np.argmax(found))  # the largest penalty among equals
    chosen, validation = float(path[best]), found[best]
    # A path to the chosen one, of the same length so that nothing recompiles.
    penalties = np.maximum(path, chosen)
  else:
    penalties = (chosen,)
  final = fit(penalties=penalties)
  last = final._replace(
    kernels=final.kernels[-1:], intercepts=final.intercepts[-1:]
  )
  return {
    "accuracy": measure(last.predict(test[0])[0], test[1]),
    "penalty": chosen,
    "validation_accuracy": validation,
    "is_converged": bool(final.is_converged[-1]),
    "num_train": len(labels),
    "num_validation": int(held_out.sum()),
  }
