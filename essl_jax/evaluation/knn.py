"""Weighted k-nearest-neighbour classification on frozen features."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from essl_jax.evaluation import features

# One block's similarities [block, bank] hold at most this many float32: 64 MB.
_BLOCK_ELEMENTS = 2**24


def predict(
  bank: ArrayLike,
  bank_labels: ArrayLike,
  queries: ArrayLike,
  *,
  num_classes: int,
  k: int,
  temperature: float,
) -> jax.Array:
  """Ranks the classes of each query by its nearest neighbours in a bank.

  Both sides are L2-normalised. The k most similar bank entries (cosine) vote
  for their class with weight `exp(similarity / temperature)`. Similarities are
  computed in full float32 on every backend, for a block of queries at a time,
  so that memory does not grow with the number of queries.

  Classes of equal score, such as those without a neighbour, are ranked lower
  class first; of equally similar bank entries the earlier one is the nearer.
  Labels outside `[0, num_classes)` vote for nothing.

  Args:
    bank: features `[B, D]`, any float dtype.
    bank_labels: classes `[B]`, integers.
    queries: features `[Q, D]`, any float dtype.
    num_classes: number of classes C, static.
    k: number of neighbours, `1 <= k <= B`, static.
    temperature: divides the similarities, > 0.

  Returns:
    Classes `[Q, C]` int32, the best first.

  Raises:
    ValueError: for arrays that do not fit each other, k larger than the bank,
      or a k, temperature or number of classes that is not positive.

  Example:
    >>> bank = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> predict(bank, jnp.array([2, 0]), jnp.array([[0.9, 0.1]]),
    ...         num_classes=3, k=2, temperature=0.1)
    Array([[2, 0, 1]], dtype=int32)

  Reference: Wu et al., "Unsupervised Feature Learning via Non-Parametric
    Instance Discrimination", CVPR 2018 (arXiv 1805.01978).
  """
  arrays = jnp.asarray(bank), jnp.asarray(bank_labels), jnp.asarray(queries)
  _check(*arrays, num_classes, k, temperature)
  return _predict(*arrays, temperature, num_classes=num_classes, k=k)


def run(
  bank: np.ndarray,
  bank_labels: np.ndarray,
  queries: np.ndarray,
  query_labels: np.ndarray,
  *,
  num_classes: int,
  k: int,
  temperature: float,
) -> dict[str, Any]:
  """Measures the accuracy of `predict` on labelled queries.

  Args:
    bank: features `[B, D]`.
    bank_labels: classes `[B]`, in `[0, num_classes)`.
    queries: features `[Q, D]`.
    query_labels: classes `[Q]`, in `[0, num_classes)`.
    num_classes: number of classes.
    k: number of neighbours; a bank with fewer entries is used whole.
    temperature: divides the similarities, > 0.

  Returns:
    `knn_top1` in percent (exact: correct / Q), `knn_top5` where there are
    more than five classes, and the protocol: `k` as used, `temperature`,
    `bank_size`, `num_queries`.

  Raises:
    ValueError: as `predict`, and for labels out of range, labels that do not
      fit the queries, or features that are not finite.
  """
  features.check("bank", bank, bank_labels, num_classes)
  features.check("query", queries, query_labels, num_classes)
  k = min(k, len(bank))
  ranked = np.asarray(
    predict(
      bank,
      bank_labels,
      queries,
      num_classes=num_classes,
      k=k,
      temperature=temperature,
    )
  )
  hits = ranked == np.asarray(query_labels)[:, None]
  figures: dict[str, Any] = {
    "knn_top1": 100.0 * int(hits[:, 0].sum()) / len(hits)
  }
  if num_classes > 5:
    figures["knn_top5"] = 100.0 * int(hits[:, :5].sum()) / len(hits)
  return figures | {
    "k": k,
    "temperature": temperature,
    "bank_size": len(bank),
    "num_queries": len(hits),
  }


def _check(
  bank: jax.Array,
  bank_labels: jax.Array,
  queries: jax.Array,
  num_classes: int,
  k: int,
  temperature: float,
) -> None:
  """Raises ValueError for what `predict` cannot work with."""
  shapes = f"bank {bank.shape}, queries {queries.shape}"
  if bank.ndim != 2 or queries.ndim != 2 or 0 in bank.shape + queries.shape:
    raise ValueError(f"features must be [N, D] and not empty, got {shapes}")
  if bank.shape[1] != queries.shape[1]:
    raise ValueError(f"features must have one width, got {shapes}")
  if bank_labels.shape != bank.shape[:1]:
    raise ValueError(
      f"bank_labels {bank_labels.shape} must be one per entry of {shapes}"
    )
  if not jnp.issubdtype(bank_labels.dtype, jnp.integer):
    raise ValueError(f"bank_labels must be integers, got {bank_labels.dtype}")
  if not 1 <= k <= len(bank):
    raise ValueError(f"k={k} must be between 1 and the bank's {len(bank)}")
  if num_classes < 1:
    raise ValueError(f"num_classes={num_classes} must be positive")
  # A traced temperature has no value to look at yet.
  if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
    raise ValueError(f"temperature={temperature} must be positive")


@functools.partial(jax.jit, static_argnames=("num_classes", "k"))
def _predict(
  bank: jax.Array,
  bank_labels: jax.Array,
  queries: jax.Array,
  temperature: float,
  *,
  num_classes: int,
  k: int,
) -> jax.Array:
  """`predict` on checked arguments."""
  bank = _l2_normalize(bank)
  queries = _l2_normalize(queries)
  classes = jnp.arange(num_classes, dtype=bank_labels.dtype)

  def rank(block: jax.Array) -> jax.Array:
    similarities = jnp.matmul(
      block, bank.T, precision=jax.lax.Precision.HIGHEST
    )
    nearest, indices = jax.lax.top_k(similarities, k)
    # The nearest gets weight 1, so that no temperature overflows. Slicing it
    # off instead of `max` makes XLA sort the whole bank: 10 times slower.
    best = jnp.max(nearest, axis=1, keepdims=True)
    weights = jnp.exp((nearest - best) / temperature)
    votes = bank_labels[indices][..., None] == classes[None, None]
    scores = jnp.sum(votes * weights[..., None], axis=1)
    return jnp.argsort(scores, axis=1, stable=True, descending=True)

  number, width = queries.shape
  size = _block_size(number, max(len(bank), k * num_classes))
  count = -(-number // size)
  padded = jnp.pad(queries, ((0, count * size - number), (0, 0)))
  ranked = jax.lax.map(rank, padded.reshape(count, size, width))
  return ranked.reshape(count * size, num_classes)[:number].astype(jnp.int32)


def _block_size(number: int, row: int) -> int:
  """Number of queries at a time, rows of `row` values fitting the limit."""
  most = max(1, _BLOCK_ELEMENTS // row)
  count = -(-number // most)
  # Even blocks leave less padding in the last one.
  return -(-number // count)


def _l2_normalize(rows: jax.Array) -> jax.Array:
  """Rows `[N, D]` at length one, in float32; rows of zeros stay zeros."""
  rows = rows.astype(jnp.float32)
  norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
  return rows / jnp.maximum(norms, 1e-12)
