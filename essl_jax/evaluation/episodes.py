"""Few-shot episodes: classify a few classes from a few examples."""

from typing import Any

import numpy as np

from essl_jax.errors import UsageError
from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation import logistic

_AT_ONCE = 200  # episodes, one compiled program for all
_Z = 1.959964  # 95% of a normal distribution is within so many deviations


def run(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  ways: int,
  shots: int,
  queries: int,
  number: int,
  seed: int = 0,
) -> dict[str, Any]:
  """Measures few-shot accuracy: a regression on few examples of each class.

  Features are scaled to unit length. The penalty is scikit-learn's default, one
  over the number of training examples.

  Args:
    features: [N, D].
    labels: integers [N].
    ways: number of classes in an episode, 2 or more.
    shots: training examples of each class.
    queries: other examples of each class, which are classified.
    number: number of episodes, 2 or more.
    seed: seed of all draws.

  Returns:
    The mean `accuracy` in percent over the episodes; `interval`, the half-width
    of its 95% confidence interval; and the number of `episodes`.

  Raises:
    UsageError: fewer classes than `ways` have enough examples.
    ValueError: features and labels do not fit.
  """
  features_lib.check("test", features, labels, int(np.max(labels)) + 1)
  found, counts = np.unique(labels, return_counts=True)
  classes = found[counts >= shots + queries]
  if len(classes) < ways:
    raise UsageError(
      f"episodes of {ways} classes with {shots} + {queries} images need as many"
      f" classes of that size, but there are {len(classes)}: give fewer ways,"
      " shots or queries"
    )
  lengths = np.linalg.norm(features, axis=1, keepdims=True)
  unit = features / np.where(lengths > 0, lengths, 1)
  members = {x: np.flatnonzero(labels == x) for x in classes.tolist()}
  random = np.random.Generator(np.random.Philox(key=seed))

  def draw() -> np.ndarray:
    """Draws the rows [ways, shots + queries] of an episode."""
    chosen = random.choice(classes, ways, replace=False)
    rows = [
      random.choice(members[x], shots + queries, replace=False)
      for x in chosen.tolist()
    ]
    return np.stack(rows)

  rows = np.stack([draw() for _ in range(number)])
  parts = [
    _name(unit, rows[first : first + _AT_ONCE], shots)
    for first in range(0, number, _AT_ONCE)
  ]
  each = 100 * np.concatenate(parts)
  return {
    "accuracy": float(each.mean()),
    "interval": float(_Z * each.std(ddof=1) / np.sqrt(number)),
    "episodes": number,
  }


def _name(unit: np.ndarray, rows: np.ndarray, shots: int) -> np.ndarray:
  """The accuracy [E] of episodes [E, ways, shots + queries]."""
  count, ways, _ = rows.shape
  missing = _AT_ONCE - count if count < _AT_ONCE else 0
  padded = np.pad(rows, ((0, missing), (0, 0), (0, 0)), mode="edge")
  known, asked = padded[..., :shots], padded[..., shots:]
  number = ways * shots
  labels = np.repeat(np.arange(ways), shots)
  kernels, intercepts = logistic.fit_many(
    unit[known].reshape(len(padded), number, -1),
    np.tile(labels, (len(padded), 1)),
    num_classes=ways,
    penalty=1 / number,
  )
  queries = unit[asked].reshape(len(padded), -1, unit.shape[1])
  named = np.argmax(queries @ kernels + intercepts[:, None], axis=2)
  truth = np.repeat(np.arange(ways), asked.shape[2])
  return np.mean(named[:count] == truth[None], axis=1)
