"""Analysis of features [N, D]: neighbours, a map, a spectrum."""

import numpy as np

from essl_jax.evaluation.collapse import effective_rank
from essl_jax.evaluation.directions import centred, unit_length
from essl_jax.evaluation.pictures import principal

_PERPLEXITY = 30.0
_FEWEST = 10  # points that t-SNE needs
_WIDEST = 50  # most dimensions that t-SNE gets
_MAP_NEIGHBOURS = 10


def neighbours(
  features: np.ndarray, bank: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the k features of a bank with the most similar directions.

  Args:
    features: [N, D].
    bank: [M, D], M at least k.
    k: number of neighbours.

  Returns:
    Rows of the bank int [N, k], nearest first, and their cosines [N, k].
  """
  cosines = unit_length(features) @ unit_length(bank).T
  rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
  return rows, np.take_along_axis(cosines, rows, axis=1)


def flatten(features: np.ndarray) -> tuple[np.ndarray, str]:
  """Maps features to the plane.

  Args:
    features: [N, D]; only their directions matter.

  Returns:
    Points [N, 2] and the name of the method.
  """
  points = principal(features, _WIDEST)
  try:
    from sklearn import manifold
    import threadpoolctl  # a requirement of scikit-learn
  except ImportError:
    missing = "t-SNE needs scikit-learn: pip install 'essl-jax[digits]'"
    return points[:, :2], f"PCA ({missing})"
  if len(features) < _FEWEST:
    return points[:, :2], "PCA (t-SNE needs ten or more)"
  perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
  tsne = manifold.TSNE(perplexity=perplexity, init="pca", random_state=0)
  # If a training runs at the same time, several threads would wait for each
  # other for minutes.
  with threadpoolctl.threadpool_limits(1):
    points = tsne.fit_transform(points)
  return points, f"t-SNE with perplexity {perplexity:g}"


def agreement(points: np.ndarray, labels: np.ndarray) -> float:
  """How often neighbouring points [N, 2] share a label, in percent."""
  squared = (points**2).sum(axis=1)
  distances = squared[:, None] + squared[None] - 2 * points @ points.T
  np.fill_diagonal(distances, np.inf)
  k = min(_MAP_NEIGHBOURS, len(points) - 1)
  near = np.argsort(distances, axis=1)[:, :k]
  return 100 * float((labels[near] == labels[:, None]).mean())


def spectrum(features: np.ndarray) -> tuple[np.ndarray, float]:
  """The spectrum of features: how they fill their dimensions.

  Args:
    features: [N, D].

  Returns:
    Singular values of the centred features divided by the largest, descending
    [min(N - 1, D)], and their effective rank: the exponential of their entropy,
    0 if all features are equal.

  Reference:
    Roy and Vetterli 2007, "The effective rank".
  """
  rows = centred(features)
  values = np.linalg.svd(rows, compute_uv=False)
  values = values[: max(len(features) - 1, 1)]  # centring removes one
  return values / (values[0] or 1), effective_rank(rows)
