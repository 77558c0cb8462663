"""AugSelf's term: predicts how the parameters of two views differ."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from essl_jax import inputs, losses
from essl_jax.augment import ViewRequest
from essl_jax.config import bounds
from essl_jax.equivariance import differences as differences_lib
from essl_jax.equivariance.term import PAIR, Metrics, Term, request_pair
from essl_jax.errors import UsageError
from essl_jax.losses import common as losses_common
from essl_jax.methods.method import Features, Heads
from essl_jax.models.heads import MLP

differences = differences_lib.differences


def _regression(scores: jax.Array, values: jax.Array) -> jax.Array:
  return jnp.mean((jnp.tanh(scores) - values) ** 2)


def _binary(scores: jax.Array, values: jax.Array) -> jax.Array:
  return jnp.mean(optax.sigmoid_binary_cross_entropy(scores, values))


# The loss of each difference; a class has a label in place of numbers.
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
  """AugSelf's loss: the weighted sum of each difference's prediction loss.

  The loss is the squared error of the hyperbolic tangent for `crop`, `color`,
  `blur` and `sol`, the binary cross entropy for `flip`, and the cross entropy
  for `rot`. It needs no `axis_name`: examples do not interact.

  Args:
    predictions: the heads' outputs [M, K] by name; both orders of the views are
      stacked.
    differences: by name, from the function `differences`: numbers [M, K], or
      [M] if K is 1; for `rot`, integer labels [M] in [0, K).
    weights: by name, numbers of at least 0. A difference without a weight is
      left out.

  Returns:
    The sum of the weighted means, a float32 scalar.

  Raises:
    ValueError: a weight's name is unknown, or has no prediction or difference;
      shapes do not fit; a weight is not a number of at least 0; or labels are
      not integers or known to be out of range.

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
    names, losses_common.as_weights(names, weights), strict=True
  ):
    for given in (_LOSSES, predictions, differences):
      if name not in given:
        raise ValueError(
          f"weights[{name!r}] needs a prediction and a difference of this name;"
          f" there are {', '.join(sorted(given))}"
        )
    total += weight * _one(name, predictions[name], differences[name])
  return total


def _one(name: str, scores: chex.Array, difference: chex.Array) -> jax.Array:
  """The loss of one difference; raises ValueError if shapes do not fit."""
  learn = _LOSSES[name]
  if learn is losses.transformation_prediction:
    return learn(scores, difference)
  shape, found = np.shape(scores), np.shape(difference)
  if len(shape) == 2 and found == shape[:1] and shape[1] == 1:
    difference = jnp.asarray(difference)[:, None]
    found = shape
  if len(shape) != 2 or 0 in shape or found != shape:
    raise ValueError(
      f"predictions[{name!r}] and differences[{name!r}] must have one shape"
      f" [M, K], not empty, got {shape} and {found}"
    )
  return learn(
    losses_common.as_float32(scores), losses_common.as_float32(difference)
  )


# Number of outputs of each difference's head.
_OUTPUTS = {"crop": 4, "color": 4, "flip": 1, "blur": 1, "sol": 1, "rot": 4}


class AugSelf(Term):
  """Heads predict how the parameters of an image's two views differ.

  Each difference has a field, its weight; 0 leaves out the head.

  Attributes:
    crop: weight of the windows' centres and sizes; 0.5 on ImageNet-100.
    color: weight of brightness, contrast, saturation and hue; 0.5 on
      ImageNet-100.
    flip: weight of whether both views or neither are flipped.
    blur: weight of the blurs' sigmas.
    sol: weight of the thresholds of solarize.
    rot: weight of quarter turns, if views draw elements of `rotation`.
    hidden_widths: widths of each head's hidden layers, without biases.

  Reference:
    Lee et al. 2021 (arXiv 2111.09613), section 3.
  """

  section = "augself"

  crop: bounds.NonNegative = 1.0
  color: bounds.NonNegative = 1.0
  flip: bounds.NonNegative = 0.0
  blur: bounds.NonNegative = 0.0
  sol: bounds.NonNegative = 0.0
  rot: bounds.NonNegative = 0.0
  hidden_widths: bounds.HiddenWidths = (512, 512)

  @property
  def weights(self) -> dict[str, float]:
    """The weights above 0, by the name of the difference."""
    given = {name: getattr(self, name) for name in _OUTPUTS}
    return {name: x for name, x in given.items() if x}

  def check(self, config: Any) -> None:
    """Refuses differences that the two views do not have."""
    pair = [getattr(config.views, name) for name in PAIR]
    there = differences_lib.drawn_by(pair, config.views.extra)
    if not self.weights:
      raise UsageError(
        f"config.{self.section} gives no difference a weight above 0: set one,"
        f" or set config.{self.section}.weight to 0"
      )
    for name in self.weights:
      if name not in there:
        raise UsageError(
          f"config.{self.section}.{name}={getattr(self, name):g} needs a"
          f" difference that config.views.first and second do not draw; they"
          f" draw {', '.join(sorted(there)) or 'none'}: set it to 0"
        )

  def requests(self, views: Any) -> list[ViewRequest]:
    """The method's two views, with their parameters."""
    return request_pair(views, parameters=True)

  def make_heads(self, **common: Any) -> dict[str, nn.Module]:
    """A head for each difference."""
    return {
      f"augself_{name}": MLP(
        (*self.hidden_widths, _OUTPUTS[name]), hidden_bias=False, **common
      )
      for name in self.weights
    }

  def forward(
    self, heads: Heads, features: Features, targets: Mapping[str, Any]
  ) -> dict[str, jax.Array]:
    """The outputs [2 N, K] of each head, for both orders of the views."""
    del targets
    y1, y2 = (features[name] for name in PAIR)
    both = jnp.concatenate(
      [jnp.concatenate(x, axis=1) for x in ((y1, y2), (y2, y1))]
    )
    return {name: heads[f"augself_{name}"](both) for name in self.weights}

  def loss(
    self,
    outputs: Any,
    targets: Mapping[str, Any],
    *,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, Metrics]:
    """The weighted sum, and the unweighted loss of each difference."""
    del axis_name
    pair = [targets["parameters"][name] for name in PAIR]
    jitter = differences_lib.largest_jitter([x.view for x in pair])
    there, back = (
      differences(a.parameters, b.parameters, jitter=jitter)
      for a, b in (pair, pair[::-1])
    )
    wanted = {
      name: jnp.concatenate([there[name], back[name]]) for name in self.weights
    }
    found = {
      name: loss(outputs, wanted, weights={name: 1.0}) for name in self.weights
    }
    total = sum(
      (self.weights[name] * x for name, x in found.items()),
      jnp.zeros((), jnp.float32),
    )
    return total, {f"{self.section}_{name}": x for name, x in found.items()}


PART = AugSelf
