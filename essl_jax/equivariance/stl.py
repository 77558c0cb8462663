"""STL's term: what a pair of images shares is learned without parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from essl_jax import inputs, losses
from essl_jax.losses import common

PARTS = ("invariance", "equivariance", "transformation")
"""The parts of the loss, in the order of its weights."""


@inputs.any_sharding(by_example=False)
def loss(
  invariance1: chex.Array,
  invariance2: chex.Array,
  targets: chex.Array,
  predicted: chex.Array,
  transformations1: chex.Array,
  transformations2: chex.Array,
  *,
  temperature: jax.typing.ArrayLike,
  weights: Mapping[str, Any] | Sequence[Any],
  axis_name: str | None = None,
) -> jax.Array:
  """Self-supervised transformation learning: three NT-Xent losses.

  Two images share the draws of both views: the transformation that is read off
  one of them moves the other's features.

  Args:
    invariance1: embeddings [N, D1] of the first view.
    invariance2: those of the second view.
    targets: embeddings [M, D2] of both views, stacked.
    predicted: [M, D2], what the partner's transformation makes of the other
      view of the same image.
    transformations1: embeddings [K, D3] of the transformations of one half of
      the images.
    transformations2: those of their partners.
    temperature: what cosine similarities are divided by, above 0; 0.2 in the
      paper.
    weights: of the invariance, the equivariance and the transformations, in
      this order or by the names in `PARTS`; 1, 1 and 0.1 in the paper.
    axis_name: mapped axis over whose devices all are gathered.

  Returns:
    The weighted sum, a float32 scalar.

  Raises:
    ValueError: shapes of a pair differ or are not [N, D], all devices together
      have one row of it, or a weight or the temperature is no such number.

  Example:
    >>> z = jnp.eye(4)
    >>> options = {"temperature": 0.2, "weights": (1, 1, 0.1)}
    >>> print(round(float(loss(z, z, z, z, z, z, **options)), 4))
    0.0831

  Reference:
    Yu et al. 2025 (arXiv 2501.08712), section 3.
  """
  pairs = (
    (invariance1, invariance2),
    (targets, predicted),
    (transformations1, transformations2),
  )
  total = jnp.zeros((), jnp.float32)
  for weight, pair in zip(
    common.as_weights(PARTS, weights), pairs, strict=True
  ):
    total += weight * losses.nt_xent(
      *pair, temperature=temperature, axis_name=axis_name
    )
  return total
