"""Directions and deviations of features, ignoring rounding errors."""

import numpy as np

_ZERO = 1e-12  # shorter rows count as zeros
_LARGEST = float(np.finfo(np.float32).max)
_SHORTEST = 1e-6  # relative to the longest row; shorter ones are rounded zeros
_LEAST_DEVIATION = 1e-3  # relative to the length; bfloat16 rounds by a few


def as_rows(features: np.ndarray) -> np.ndarray:
  """Converts features to float64, and refuses those that measures cannot use.

  Args:
    features: [..., D], of any real dtype.

  Returns:
    The features in float64.

  Raises:
    ValueError: they are empty, not rows, or not finite in float32.
  """
  rows = np.asarray(features, np.float64)
  if rows.ndim < 2 or not rows.size:
    raise ValueError(
      f"features must be [N, D] and not empty, got shape {rows.shape}"
    )
  if not (np.abs(rows) <= _LARGEST).all():
    raise ValueError("features must be finite, but some are not")
  return rows


def unit_length(embeddings: np.ndarray) -> np.ndarray:
  """Scales rows to length one, in float64.

  Args:
    embeddings: [..., D].

  Returns:
    The same rows; zeros, and rows too short to have a direction, become zeros.
  """
  rows = as_rows(embeddings)
  norms = np.linalg.norm(rows, axis=-1, keepdims=True)
  least = max(_ZERO, _SHORTEST * norms.max(initial=0))
  return np.where(norms > least, rows / np.maximum(norms, least), 0)


def are_zeros(rows: np.ndarray) -> bool:
  """Whether all rows count as zeros; see `unit_length`."""
  return bool(np.linalg.norm(rows, axis=-1).max() <= _ZERO)


def cosines_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Cosines of rows from `unit_length`, [N, D] and [M, D]; 1 for zeros.

  A row of zeros has no direction, so its cosines are those of collapsed rows.
  """
  is_zero = [~x.any(axis=-1) for x in (first, second)]
  return np.where(np.logical_or.outer(*is_zero), 1, first @ second.T)


def centred(features: np.ndarray) -> np.ndarray:
  """Subtracts the mean; gives zeros for features that vary only by rounding.

  Args:
    features: [N, D].

  Returns:
    [N, D], float64. Dimensions that vary by less than a millionth of their size
    (float32 rounding) are zero. All are zero if their deviation is less than a
    thousandth of their length (bfloat16 rounding).
  """
  rows = as_rows(features)
  varies = rows.std(axis=0) > 1e-6 * np.abs(rows).max(axis=0)
  moved = np.where(varies, rows - rows.mean(axis=0), 0)
  return moved if vary(rows) else np.zeros_like(moved)


def vary(features: np.ndarray) -> bool:
  """Whether features [N, D] vary by more than rounding; see `centred`."""
  rows = as_rows(features)
  if are_zeros(rows):
    return False
  deviations = ((rows - rows.mean(axis=0)) ** 2).sum()
  return bool(deviations > _LEAST_DEVIATION**2 * (rows**2).sum())
