"""AugSelf's term: by what the parameters of two views differ."""

from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from essl_jax import inputs, losses
from essl_jax.losses import common


def _regression(scores: jax.Array, values: jax.Array) -> jax.Array:
  return jnp.mean((jnp.tanh(scores) - values) ** 2)


def _binary(scores: jax.Array, values: jax.Array) -> jax.Array:
  return jnp.mean(optax.sigmoid_binary_cross_entropy(scores, values))


# How each difference is learned; classes have a label and no numbers.
_LOSSES: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  "crop": _regression,
  "color": _regression,
  "flip": _binary,
  "blur": _regression,
  "sol": _regression,
  "rot": losses.transformation_prediction,
}


@inputs.any_sharding(by_example=False)
def loss(
  predictions: Mapping[str, chex.Array],
  differences: Mapping[str, chex.Array],
  *,
  weights: Mapping[str, jax.typing.ArrayLike],
) -> jax.Array:
  """AugSelf's loss: the weighted sum of how badly each difference is named.

  The squared error of the hyperbolic tangent for `crop`, `color`, `blur` and
  `sol`, a binary cross entropy for `flip`, a cross entropy for `rot`. Needs no
  `axis_name`: examples do not see each other.

  Args:
    predictions: by name, the outputs [M, K] of the heads; both orders of the
      views are stacked.
    differences: by name, numbers [M, K], or [M] where K is 1, of `differences`;
      of `rot` labels, integers [M] in [0, K).
    weights: by name, numbers of at least 0. What has no weight is left out.

  Returns:
    The sum of the weighted means, a float32 scalar.

  Raises:
    ValueError: a weight has an unknown name, or one without a prediction or a
      difference; shapes do not fit; a weight is not a number of at least 0, or
      a label is no integer or known to be out of range.

  Example:
    >>> crop = {"crop": jnp.zeros((2, 4))}
    >>> moved = {"crop": jnp.full((2, 4), 0.5)}
    >>> print(loss(crop, moved, weights={"crop": 2.0}))
    0.5

  Reference:
    Lee et al. 2021 (arXiv 2111.09613), equations 3 and 4.
  """
  names = sorted(weights)
  total = jnp.zeros((), jnp.float32)
  for name, weight in zip(
    names, common.as_weights(names, weights), strict=True
  ):
    for given in (_LOSSES, predictions, differences):
      if name not in given:
        raise ValueError(
          f"weights[{name!r}] has nothing to weigh; there are"
          f" {', '.join(sorted(given))}"
        )
    total += weight * _one(name, predictions[name], differences[name])
  return total


def _one(name: str, scores: chex.Array, difference: chex.Array) -> jax.Array:
  """The loss of one difference; ValueError where shapes do not fit."""
  learn = _LOSSES[name]
  if learn is losses.transformation_prediction:
    return learn(scores, difference)
  shape, found = np.shape(scores), np.shape(difference)
  if len(shape) == 2 and found == shape[:1] and shape[1] == 1:
    difference = jnp.asarray(difference)[:, None]
    found = shape
  if len(shape) != 2 or 0 in shape or found != shape:
    raise ValueError(
      f"predictions[{name!r}] and differences[{name!r}] must be of one shape"
      f" [M, K], not empty, got {shape} and {found}"
    )
  return learn(common.as_float32(scores), common.as_float32(difference))
