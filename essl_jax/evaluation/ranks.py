"""The rank of the true embedding among candidates, by a prediction of it."""

import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs
from essl_jax.losses import common


@inputs.any_sharding(by_example=True)
def ranks(
  predicted: chex.Array, candidates: chex.Array, true_index: chex.Array
) -> jax.Array:
  """Places of the true candidates, by their cosines to a prediction.

  Args:
    predicted: embeddings [N, D].
    candidates: embeddings [N, K, D], among them the one that was predicted.
    true_index: which one that is, integers [N] in [0, K).

  Returns:
    int32 [N], from 1, where the true one is nearest, to K. Candidates as near
    as the true one come before it: embeddings that are all the same find
    nothing.

  Raises:
    ValueError: the shapes do not fit, or an index is no integer or known to be
      out of range.

  Example:
    >>> candidates = jnp.array([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    >>> print(ranks(jnp.array([[1.0, 0.1]]), candidates, jnp.array([1])))
    [2]

  Reference:
    Garrido et al. 2023 (arXiv 2302.10283), section 5.
  """
  shapes = np.shape(predicted), np.shape(candidates)
  n, d = shapes[0] if len(shapes[0]) == 2 else (0, 0)
  if len(shapes[1]) != 3 or shapes[1][::2] != (n, d) or 0 in shapes[1]:
    raise ValueError(
      "predicted must be [N, D] and candidates [N, K, D], not empty, got"
      f" {shapes[0]} and {shapes[1]}"
    )
  count = shapes[1][1]
  index = inputs.labels_of(true_index, n, count)[:, None]
  cosines = jnp.einsum(
    "nkd,nd->nk",
    common.unit_length(candidates),
    common.unit_length(predicted),
    precision=lax.Precision.HIGHEST,
  )
  true = jnp.take_along_axis(cosines, index, axis=1)
  return count - jnp.sum(cosines < true, axis=1, dtype=jnp.int32)
