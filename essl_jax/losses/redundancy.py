"""Losses that decorrelate the dimensions of an embedding."""

import chex
import jax
from jax import lax
import jax.numpy as jnp

from essl_jax import inputs
from essl_jax.losses import common

_NORM_EPSILON = 1e-5  # PyTorch's batch normalisation
_LEAST_EPSILON = 1e-20  # if the scaled one underflows; its own powers do not
_VARIANCE_EPSILON = 1e-4  # VICReg


def _standardize(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Scales columns of `x` [N, D] to mean 0 and variance 1 over all devices."""
  size = common.size_of_large(x, axis=0, axis_name=axis_name)
  x = x / size
  centered = x - common.average(jnp.mean(x, axis=0, keepdims=True), axis_name)
  squares = jnp.mean(centered**2, axis=0, keepdims=True)
  variance = common.average(squares, axis_name)
  epsilon = jnp.maximum(_NORM_EPSILON / size**2, _LEAST_EPSILON)
  return centered * lax.rsqrt(variance + epsilon)


@inputs.any_sharding(by_example=False)
def barlow_twins(
  z1: chex.Array,
  z2: chex.Array,
  *,
  redundancy_weight: jax.typing.ArrayLike,
  axis_name: str | None = None,
) -> jax.Array:
  """Barlow Twins: the cross-correlation of two views should be the identity.

  First batch-normalises every dimension over the examples of all devices
  (biased variance, no scale and offset).

  Args:
    z1: projections [N, D] of the first view.
    z2: projections [N, D] of the second view.
    redundancy_weight: weight of the squared off-diagonal correlations; 0.0051
      in the paper.
    axis_name: mapped axis over whose devices statistics and correlations are
      averaged. Every device then returns the loss of the global batch. All
      devices must use it with the same weight: the gradient relies on it.

  Returns:
    The loss, a float32 scalar: a sum over dimensions, not over examples.

  Raises:
    ValueError: the shapes differ or are not [N, D], all devices together have
      one example, or the weight is not a number >= 0.

  Example:
    >>> z = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> print(round(float(barlow_twins(z, z, redundancy_weight=0.0051)), 6))
    0.0

  Reference:
    Zbontar et al. 2021 (arXiv 2103.03230), equations 1 and 2.
  """
  z1, z2 = common.as_pair(z1, z2, "z1 and z2", least_width=1)
  redundancy_weight = common.as_number(
    "redundancy_weight", redundancy_weight, positive=False
  )
  common.check_several(z1.shape[0], axis_name)
  a, b = (_standardize(z, axis_name) for z in (z1, z2))
  own = common.similarity(a.T, b.T) / a.shape[0]
  correlation = common.average_for_all(own, axis_name)
  diagonal = jnp.diagonal(correlation)
  on = jnp.sum((diagonal - 1) ** 2)
  off = jnp.sum(correlation**2) - jnp.sum(diagonal**2)
  return on + redundancy_weight * off


def _covariance(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Computes the unbiased covariance [D, D] of the rows of all devices."""
  centered = x - common.average(jnp.mean(x, axis=0, keepdims=True), axis_name)
  own = common.similarity(centered.T, centered.T) / x.shape[0]
  devices = 1 if axis_name is None else lax.axis_size(axis_name)
  rows = devices * x.shape[0]
  return common.average_for_all(own, axis_name) * (rows / (rows - 1))


def spread(
  x: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
  """VICReg's variance and covariance terms, which prevent collapse of a view.

  Args:
    x: float32 [N, D]; two rows or more over all devices.
    axis_name: mapped axis, as in `vicreg`.

  Returns:
    Two means over dimensions: how far the standard deviation falls short of 1,
    and the sum of squared covariances with all other dimensions.

  Reference:
    Bardes et al. 2022 (arXiv 2105.04906), equations 1 to 4.
  """
  covariance = _covariance(x, axis_name)
  variances = jnp.diagonal(covariance)
  lack = jax.nn.relu(1 - jnp.sqrt(variances + _VARIANCE_EPSILON))
  off = jnp.sum(covariance**2) - jnp.sum(variances**2)
  return jnp.mean(lack), off / x.shape[1]


@inputs.any_sharding(by_example=False)
def vicreg(
  z1: chex.Array,
  z2: chex.Array,
  *,
  invariance_weight: jax.typing.ArrayLike,
  variance_weight: jax.typing.ArrayLike,
  covariance_weight: jax.typing.ArrayLike,
  axis_name: str | None = None,
) -> jax.Array:
  """VICReg: views agree, and dimensions vary without being correlated.

  The invariance term is the mean squared difference. The variance term asks
  every dimension for a standard deviation of 1. The covariance term is the mean
  over dimensions of the squared covariances with all others. Both are *summed*
  over the two views; the authors' program halves the variance term.

  Args:
    z1: projections [N, D] of the first view.
    z2: projections [N, D] of the second view.
    invariance_weight: weight of the squared differences; 25 in the paper.
    variance_weight: weight of the variance term; 25 in the paper.
    covariance_weight: weight of the covariance term; 1 in the paper.
    axis_name: mapped axis over whose devices the unbiased covariances are
      averaged, as in `barlow_twins`.

  Returns:
    The loss, a float32 scalar. It depends on the scale of the embeddings, and
    overflows if their fourth power exceeds float32.

  Raises:
    ValueError: the shapes differ or are not [N, D], all devices together have
      one example, or a weight is not a number >= 0.

  Example:
    >>> z = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> weights = {"invariance_weight": 25, "variance_weight": 25}
    >>> print(float(vicreg(z, z, **weights, covariance_weight=1)))
    0.0

  Reference:
    Bardes et al. 2022 (arXiv 2105.04906), equations 1 to 6.
  """
  z1, z2 = common.as_pair(z1, z2, "z1 and z2", least_width=1)
  weights = {
    "invariance_weight": invariance_weight,
    "variance_weight": variance_weight,
    "covariance_weight": covariance_weight,
  }
  of_invariance, of_variance, of_covariance = (
    common.as_number(name, x, positive=False) for name, x in weights.items()
  )
  common.check_several(z1.shape[0], axis_name)
  loss = of_invariance * jnp.mean((z1 - z2) ** 2)
  for z in (z1, z2):
    lack, off = spread(z, axis_name)
    loss += of_variance * lack + of_covariance * off
  return loss
