"""Contrastive losses: InfoNCE, NT-Xent and MoCo v3's."""

import chex
import jax
from jax import lax
import jax.numpy as jnp
import optax

from essl_jax import inputs
from essl_jax.losses import common


@inputs.any_sharding(by_example=False)
def info_nce(
  anchors: chex.Array,
  positives: chex.Array,
  *,
  temperature: jax.typing.ArrayLike,
  axis_name: str | None = None,
) -> jax.Array:
  """InfoNCE in one direction, from the anchors to the positives.

  Row i of `anchors` has to find row i of `positives` among all rows of
  `positives` (of all devices): N - 1 negatives, none from the anchors' own
  view. E-SSL's CIFAR-10 recipe averages both directions.

  Args:
    anchors: embeddings [N, D] of one view, normalised inside.
    positives: embeddings [N, D] of the other view, normalised inside.
    temperature: divides the cosine similarities, above 0.
    axis_name: mapped axis over whose devices the positives are gathered.

  Returns:
    The mean loss, a float32 scalar.

  Raises:
    ValueError: the shapes differ or are not [N, D], all devices together have
      one example, or the temperature is not a number above 0.

  Example:
    >>> z1, z2 = jnp.eye(4), jnp.eye(4)
    >>> print(round(float(info_nce(z1, z2, temperature=0.1)), 6))
    0.000136

  Reference:
    van den Oord et al. 2018 (arXiv 1807.03748), equation 4.
  """
  names = "anchors and positives"
  anchors, positives = common.as_pair(anchors, positives, names)
  temperature = common.as_number("temperature", temperature, positive=True)
  n = anchors.shape[0]
  common.check_several(n, axis_name)
  everyone = common.gather(common.unit_length(positives), axis_name)
  logits = (
    common.similarity(common.unit_length(anchors), everyone) / temperature
  )
  labels = common.first_row(n, axis_name) + jnp.arange(n)
  return jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  )


@inputs.any_sharding(by_example=False)
def nt_xent(
  z1: chex.Array,
  z2: chex.Array,
  *,
  temperature: jax.typing.ArrayLike,
  axis_name: str | None = None,
) -> jax.Array:
  """SimCLR's normalised temperature-scaled cross entropy.

  Each of the 2N embeddings has to find its partner among all others: one
  positive, 2N - 2 negatives (of all devices), from both views.

  Args:
    z1: embeddings [N, D] of the first view, normalised inside.
    z2: embeddings [N, D] of the second view, normalised inside.
    temperature: divides the cosine similarities, above 0.
    axis_name: mapped axis over whose devices both views are gathered.

  Returns:
    The mean loss over the 2N anchors, a float32 scalar.

  Raises:
    ValueError: the shapes differ or are not [N, D], all devices together have
      one example, or the temperature is not a number above 0.

  Example:
    >>> z = jnp.eye(4)
    >>> print(round(float(nt_xent(z, z, temperature=0.1)), 6))
    0.000273

  Reference:
    Chen et al. 2020 (arXiv 2002.05709), equation 1.
  """
  z1, z2 = common.as_pair(z1, z2, "z1 and z2")
  temperature = common.as_number("temperature", temperature, positive=True)
  n = z1.shape[0]
  common.check_several(n, axis_name)
  views = common.unit_length(z1), common.unit_length(z2)
  own = jnp.concatenate(views)
  everyone = jnp.concatenate([common.gather(z, axis_name) for z in views])
  row = common.first_row(n, axis_name) + jnp.arange(n)
  half = everyone.shape[0] // 2
  selves = jnp.concatenate([row, half + row])
  partners = jnp.concatenate([half + row, row])
  logits = common.similarity(own, everyone) / temperature
  is_self = selves[:, None] == jnp.arange(2 * half)[None, :]
  logits = jnp.where(is_self, -jnp.inf, logits)
  return jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(logits, partners)
  )


@inputs.any_sharding(by_example=False)
def moco_v3(
  queries: chex.Array,
  keys: chex.Array,
  *,
  temperature: jax.typing.ArrayLike,
  axis_name: str | None = None,
) -> jax.Array:
  """MoCo v3's loss in one direction: InfoNCE with fixed keys, times 2 tau.

  No gradient flows into the keys. MoCo v3 adds both directions.

  Args:
    queries: the predictor's outputs [N, D] for one view, normalised inside.
    keys: the target network's projections [N, D] of the other view, normalised
      inside.
    temperature: tau, divides the cosine similarities, above 0.
    axis_name: mapped axis over whose devices the keys are gathered.

  Returns:
    The mean loss, a float32 scalar.

  Raises:
    ValueError: as in `info_nce`.

  Example:
    >>> z = jnp.eye(4)
    >>> print(round(float(moco_v3(z, z, temperature=0.2)), 4))
    0.008

  Reference:
    Chen et al. 2021 (arXiv 2104.02057), equation 1 and algorithm 1.
  """
  queries, keys = common.as_pair(queries, keys, "queries and keys")
  temperature = common.as_number("temperature", temperature, positive=True)
  loss = info_nce(
    queries,
    lax.stop_gradient(keys),
    temperature=temperature,
    axis_name=axis_name,
  )
  return 2 * temperature * loss
