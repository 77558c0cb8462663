"""Losses for predicting embeddings and transformations."""

import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from essl_jax import inputs
from essl_jax.losses import common


@inputs.any_sharding(by_example=False)
def negative_cosine_similarity(
  predictions: chex.Array, targets: chex.Array
) -> jax.Array:
  """SimSiam's loss: minus the cosine between predictions and fixed targets.

  No gradient flows into the targets. Needs no `axis_name`: examples are
  independent.

  Args:
    predictions: the predictor's outputs [N, D] for one view.
    targets: the projector's outputs [N, D] for the other view.

  Returns:
    The mean loss, a float32 scalar in [-1, 1].

  Raises:
    ValueError: the shapes differ or are not [N, D].

  Example:
    >>> print(negative_cosine_similarity(jnp.eye(3), 2 * jnp.eye(3)))
    -1.0

  Reference:
    Chen and He 2021 (arXiv 2011.10566), equations 1 and 2.
  """
  names = "predictions and targets"
  predictions, targets = common.as_pair(predictions, targets, names)
  targets = lax.stop_gradient(targets)
  cosine = jnp.sum(
    common.unit_length(predictions) * common.unit_length(targets), axis=-1
  )
  return -jnp.mean(cosine)


def byol(predictions: chex.Array, targets: chex.Array) -> jax.Array:
  """BYOL's loss in one direction: squared distance of unit vectors.

  This is 2 - 2 cos. No gradient flows into the targets. BYOL adds both
  directions. Needs no `axis_name`: examples are independent.

  Args:
    predictions: the predictor's outputs [N, D] for one view.
    targets: the target network's projections [N, D] of the other view.

  Returns:
    The mean loss, a float32 scalar in [0, 4].

  Raises:
    ValueError: the shapes differ or are not [N, D].

  Example:
    >>> print(byol(jnp.eye(3), -2 * jnp.eye(3)))
    4.0

  Reference:
    Grill et al. 2020 (arXiv 2006.07733), equation 2.
  """
  return 2 + 2 * negative_cosine_similarity(predictions, targets)


@inputs.any_sharding(by_example=False)
def transformation_prediction(
  logits: chex.Array, labels: chex.Array
) -> jax.Array:
  """Cross entropy of predicting which group element was applied.

  This is E-SSL's equivariance term without its weight lambda.

  Args:
    logits: scores [N, classes] of the prediction head.
    labels: integers [N] in [0, classes), the index of the applied element.

  Returns:
    The mean loss, a float32 scalar. It is NaN if a traced label, as under
    `jit`, is out of range.

  Raises:
    ValueError: the shapes do not match, the labels are not integers, or a known
      label is out of range.

  Example:
    >>> logits = jnp.zeros((8, 4))
    >>> labels = jnp.arange(8) % 4
    >>> print(round(float(transformation_prediction(logits, labels)), 4))
    1.3863

  Reference:
    Dangovski et al. 2022 (arXiv 2111.00899), equation 2.
  """
  shape = np.shape(logits)
  if len(shape) != 2 or 0 in shape:
    raise ValueError(f"logits must be [N, classes], not empty, got {shape}")
  classes = shape[1]
  labels = inputs.labels_of(labels, shape[0], classes)
  each = optax.softmax_cross_entropy_with_integer_labels(
    common.as_float32(logits), labels
  )
  # Optax counts negative labels from the end.
  is_class = (labels >= 0) & (labels < classes)
  return jnp.mean(jnp.where(is_class, each, jnp.nan))
