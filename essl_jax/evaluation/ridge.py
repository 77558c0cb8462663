"""Linear maps with an intercept, fitted in closed form in float64."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from essl_jax.evaluation import features as features_lib

PENALTIES = tuple(10.0**exponent for exponent in range(-6, 2))
"""Penalties to choose from, relative to the inputs' mean variance."""


class Ridge:
  """Ridge regressions, fitted on one set of inputs and applied to another.

  Inputs are standardised by the moments of those to fit. If inputs do not vary,
  the mean target is predicted.
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
  """Chooses the penalty with the smallest squared error on held-out rows.

  Args:
    inputs: [N, D].
    targets: one or several [N, T]; their errors are added up.
    held_out: booleans [N]: the rows to predict from the others.

  Returns:
    One of `PENALTIES`.
  """
  trial = Ridge(inputs[~held_out], inputs[held_out])
  return _best(trial, targets, held_out)


def _best(
  trial: Ridge, targets: Sequence[np.ndarray], held_out: np.ndarray
) -> float:
  """See `choose_penalty`; `trial` has the inputs."""
  errors = np.zeros(len(PENALTIES))
  for target in targets:
    predictions = trial.predict(target[~held_out], PENALTIES)
    for number, predicted in enumerate(predictions):
      errors[number] += ((predicted - target[held_out]) ** 2).sum()
  return PENALTIES[int(np.argmin(errors))]


def predict_each(
  inputs: np.ndarray,
  targets: Mapping[str, np.ndarray],
  new_inputs: np.ndarray,
  held_out: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
  """Predicts several targets, each with the best penalty for it.

  Args:
    inputs: [N, D], to fit.
    targets: by name, [N, T]; T may differ.
    new_inputs: [M, D], to predict for.
    held_out: as in `choose_penalty`.

  Returns:
    The predictions [M, T] and the penalties, both by name.
  """
  trial = Ridge(inputs[~held_out], inputs[held_out])
  fitted = Ridge(inputs, new_inputs)
  penalties = {k: _best(trial, [x], held_out) for k, x in targets.items()}
  found = {
    k: next(fitted.predict(x, [penalties[k]])) for k, x in targets.items()
  }
  return found, penalties
