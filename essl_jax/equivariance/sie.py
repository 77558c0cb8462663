"""SIE's term: one part of the features is invariant, one is predicted."""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax import inputs
from essl_jax.augment import DrawnView, View, ViewRequest
from essl_jax.config import bounds
from essl_jax.equivariance import vectors
from essl_jax.equivariance.term import PAIR, Metrics, Term, request_pair
from essl_jax.errors import UsageError
from essl_jax.losses import common as losses_common
from essl_jax.losses import redundancy
from essl_jax.methods.method import Features, Heads
from essl_jax.models.heads import MLP
from essl_jax.models.hypernetwork import Hypernetwork

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
  first, second = losses_common.as_pair(
    invariant1, invariant2, names, least_width=1
  )
  names = "equivariant1 and equivariant2"
  equi1, equi2 = losses_common.as_pair(
    equivariant1, equivariant2, names, least_width=1
  )
  names = "predicted and equivariant2"
  predicted, _ = losses_common.as_pair(
    predicted, equivariant2, names, least_width=1
  )
  if len(first) != len(equi1):
    raise ValueError(
      "invariant and equivariant embeddings must be of as many examples, got"
      f" shapes {first.shape} and {equi1.shape}"
    )
  of_invariance, of_prediction, of_variance, of_covariance = (
    losses_common.as_weights(PARTS, weights)
  )
  losses_common.check_several(len(first), axis_name)
  total = of_invariance * jnp.mean((first - second) ** 2)
  total += of_prediction * jnp.mean((predicted - equi2) ** 2)
  for view in ((first, equi1), (second, equi2)):
    lack, off = redundancy.spread(jnp.concatenate(view, axis=1), axis_name)
    total += of_variance * lack / 2 + of_covariance * off
  lack, _ = redundancy.spread(predicted, axis_name)
  return total + of_variance * lack / 2


class SIE(Term):
  """Some features are invariant, and the others follow the augmentation.

  A hypernetwork makes, of the differences between the views' parameters, the
  matrix that takes the second part of one view to that of the other.

  Attributes:
    equivariant_features: how many of the features are the second part.
    invariance_weight: weight of the squared difference of the first part.
    prediction_weight: weight of the squared error of the prediction.
    variance_weight: weight of what deviations lack to 1.
    covariance_weight: weight of the squared covariances.
    invariant_projector: of the first part of the features.
    equivariant_projector: of the second part.

  Reference:
    Garrido et al. 2023 (arXiv 2302.10283), section 3.
  """

  equivariant_features: bounds.Count = 256
  invariance_weight: bounds.NonNegative = 10.0
  prediction_weight: bounds.NonNegative = 45.0
  variance_weight: bounds.NonNegative = 10.0
  covariance_weight: bounds.NonNegative = 1.0
  invariant_projector: bounds.Widths = (1024, 1024, 1024)
  equivariant_projector: bounds.Widths = (1024, 1024, 1024)

  def requests(self, views: Any) -> list[ViewRequest]:
    """Both views of the method, and what was done to them."""
    return request_pair(views, parameters=True)

  def make_heads(self, **common: Any) -> dict[str, nn.Module]:
    """A projector of each part, and the hypernetwork."""
    make = lambda widths: MLP(widths, output_bias=False, **common)
    return {
      "sie_invariant_projector": make(self.invariant_projector),
      "sie_equivariant_projector": make(self.equivariant_projector),
      "sie_hypernetwork": Hypernetwork(
        dtype=common["dtype"], dot_general=common["dot_general"]
      ),
    }

  def forward(
    self, heads: Heads, features: Features, targets: Mapping[str, Any]
  ) -> dict[str, jax.Array]:
    """The embeddings, the arguments of the function `loss` by their names."""
    found = {}
    for number, name in enumerate(PAIR, 1):
      invariant, _ = self._split(features[name])
      project = heads["sie_invariant_projector"]
      found[f"invariant{number}"] = project(invariant)
      found[f"equivariant{number}"] = self.embed(heads, features[name])
    first, second = (targets["parameters"][name] for name in PAIR)
    views = [first.view, second.view]
    embeddings = found["equivariant1"]
    predicted = self.predict(heads, embeddings, first, second, views)
    return found | {"predicted": predicted}

  def check_features(self, width: int) -> None:
    """Refuses features of which none would be invariant."""
    if self.equivariant_features >= width:
      raise UsageError(
        f"config.{self.section}.equivariant_features"
        f" {self.equivariant_features} must be fewer than the {width} features"
        " of the encoder, of which the others are invariant"
      )

  def _split(self, features: jax.Array) -> list[jax.Array]:
    """The invariant and the equivariant features."""
    width = features.shape[1]
    self.check_features(width)
    return jnp.split(features, [width - self.equivariant_features], axis=1)

  def predicted_from(self, views: Any) -> ViewRequest:
    """See `term.Predictor`: the first view."""
    return self.requests(views)[0]

  def embed(self, heads: Heads, features: jax.Array) -> jax.Array:
    """See `term.Predictor`: of the equivariant features."""
    return heads["sie_equivariant_projector"](self._split(features)[1])

  def predict(
    self,
    heads: Heads,
    embeddings: jax.Array,
    drawn_from: DrawnView | None,
    drawn: DrawnView,
    views: Sequence[View],
  ) -> jax.Array:
    """See `term.Predictor`."""
    if drawn_from is None:
      raise ValueError("a prediction needs to know how both views were drawn")
    moves = vectors.as_difference(drawn_from, drawn, views)
    return heads["sie_hypernetwork"](embeddings, moves)

  def loss(
    self,
    outputs: Any,
    targets: Mapping[str, Any],
    *,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, Metrics]:
    """See the function `loss`, and the error of the prediction."""
    del targets
    weights = {name: getattr(self, f"{name}_weight") for name in PARTS}
    value = loss(**outputs, weights=weights, axis_name=axis_name)
    error = jnp.mean((outputs["predicted"] - outputs["equivariant2"]) ** 2)
    return value, {f"{self.section}_prediction": error}


PART = SIE
