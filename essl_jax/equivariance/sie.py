"""SIE's term: one part of the features is invariant, one is predicted."""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from essl_jax import inputs
from essl_jax.losses import common, redundancy

PARTS = ("invariance", "prediction", "variance", "covariance")
"""The parts of the loss, in the order of its weights."""


@inputs.any_sharding(by_example=False)
def loss(
  invariant1: chex.Array,
  invariant2: chex.Array,
  equivariant1: chex.Array,
  equivariant2: chex.Array,
  predicted: chex.Array,
  *,
  weights: Mapping[str, Any] | Sequence[Any],
  axis_name: str | None = None,
) -> jax.Array:
  """SIE's loss: VICReg of split embeddings whose second part is predicted.

  The invariance is the mean squared difference of the invariant embeddings, the
  prediction that of the second view's equivariant ones and what is predicted
  of the first view's. Variance and covariance are those of `losses.vicreg` of
  both embeddings side by side, summed over the views, but that the variance is
  halved, and counts the predictions as a third view.

  Args:
    invariant1: embeddings [N, D1] of the first view's invariant features.
    invariant2: those of the second view.
    equivariant1: embeddings [N, D2] of the first view's other features.
    equivariant2: those of the second view.
    predicted: [N, D2], the equivariant ones of the second view, predicted from
      those of the first and the transformation between the views.
    weights: of the invariance, the prediction, the variance and the covariance,
      in this order or by the names in `PARTS`; 10, 45, 10 and 1 in the paper.
    axis_name: mapped axis over whose devices the unbiased covariances are
      averaged, as by `losses.vicreg`.

  Returns:
    The loss, a float32 scalar.

  Raises:
    ValueError: shapes differ or are not [N, D], all devices together have one
      example, or a weight is not a number of at least 0.

  Example:
    >>> z = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> zero, weights = jnp.zeros((4, 1)), (10, 45, 10, 1)
    >>> print(round(float(loss(zero, zero, z, z, z, weights=weights)), 3))
    3.3

  Reference:
    Garrido et al. 2023 (arXiv 2302.10283), section 3 and appendix C.
  """
  names = "invariant1 and invariant2"
  first, second = common.as_pair(invariant1, invariant2, names, least_width=1)
  names = "equivariant1 and equivariant2"
  equi1, equi2 = common.as_pair(
    equivariant1, equivariant2, names, least_width=1
  )
  names = "predicted and equivariant2"
  predicted, _ = common.as_pair(predicted, equivariant2, names, least_width=1)
  if len(first) != len(equi1):
    raise ValueError(
      "invariant and equivariant embeddings must be of as many examples, got"
      f" shapes {first.shape} and {equi1.shape}"
    )
  of_invariance, of_prediction, of_variance, of_covariance = common.as_weights(
    PARTS, weights
  )
  common.check_several(len(first), axis_name)
  total = of_invariance * jnp.mean((first - second) ** 2)
  total += of_prediction * jnp.mean((predicted - equi2) ** 2)
  for view in ((first, equi1), (second, equi2)):
    lack, off = redundancy.spread(jnp.concatenate(view, axis=1), axis_name)
    total += of_variance * lack / 2 + of_covariance * off
  lack, _ = redundancy.spread(predicted, axis_name)
  return total + of_variance * lack / 2
