"""Linear maps with an intercept, fitted in closed form in float64."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from essl_jax.evaluation import features as features_lib

PENALTIES = tuple(10.0**exponent for exponent in range(-6, 2))
"""Of which one is chosen, relative to the inputs' mean variance."""


class Ridge:
  """Ridge regressions from one set of inputs, evaluated on another.

  Inputs are standardised by the moments of those that are fitted. With inputs
  that do not vary, the mean target is predicted.
  """

  def __init__(self, inputs: np.ndarray, new_inputs: np.ndarray):
    """Decomposes the inputs once for all targets and penalties.

    Args:
      inputs: [N, D], to fit.
      new_inputs: [M, D], to predict for.
    """
    train, new = features_lib.standardise(inputs, new_inputs)
    train = train.astype(np.float64)
    self._values, vectors = np.linalg.eigh(train.T @ train / len(train))
    self._train, self._new = train @ vectors, new @ vectors

  def predict(
    self, targets: np.ndarray, penalties: Iterable[float]
  ) -> Iterator[np.ndarray]:
    """Fits targets [N, T]; yields predictions [M, T] for each penalty."""
    targets = np.asarray(targets, np.float64)
    mean = targets.mean(axis=0)
    moments = self._train.T @ (targets - mean) / len(targets)
    for penalty in penalties:
      scale = 1 / (self._values + penalty / len(self._values))
      yield (self._new * scale) @ moments + mean


def choose_penalty(
  inputs: np.ndarray, targets: Sequence[np.ndarray], held_out: np.ndarray
) -> float:
  """The penalty with the smallest squared error on rows that are held out.

  Args:
    inputs: [N, D].
    targets: one or several [N, T], whose errors are added up.
    held_out: booleans [N]: the rows to predict from the others.

  Returns:
    One of `PENALTIES`.
  """
  trial = Ridge(inputs[~held_out], inputs[held_out])
  errors = np.zeros(len(PENALTIES))
  for target in targets:
    predictions = trial.predict(target[~held_out], PENALTIES)
    for number, predicted in enumerate(predictions):
      errors[number] += ((predicted - target[held_out]) ** 2).sum()
  return PENALTIES[int(np.argmin(errors))]
