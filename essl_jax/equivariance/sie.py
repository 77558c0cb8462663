"""SIE's term: part of the features is invariant, the rest equivariant."""

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
  """SIE's loss: VICReg on split embeddings, with a predicted second part.

  The invariance is the mean squared difference between the views' invariant
  embeddings. The prediction is that between the second view's equivariant
  embeddings and those predicted from the first view. Variance and covariance
  are those of `losses.vicreg` of both embeddings side by side, summed over the
  views, except that the variance is halved and counts the predictions as a
  third view.

  Args:
    invariant1: embeddings [N, D1] of the first view's invariant features.
    invariant2: those of the second view.
    equivariant1: embeddings [N, D2] of the first view's other features.
    equivariant2: those of the second view.
    predicted: [N, D2], the second view's equivariant embeddings, predicted from
      the first view's and the transformation between the views.
    weights: of the invariance, the prediction, the variance and the covariance,
      in this order or by the names in `PARTS`; 10, 45, 10 and 1 in the paper.
    axis_name: mapped axis; the unbiased covariances are averaged over its
      devices, as in `losses.vicreg`.

  Returns:
    The loss, a float32 scalar.

  Raises:
    ValueError: shapes differ or are not [N, D], all devices together have only
      one example, or a weight is not a number of at least 0.

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
      "invariant and equivariant embeddings must have equally many rows, got"
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

  From the differences between the views' parameters, a hypernetwork makes the
  matrix that maps the second part of one view's features to the other's.

  Attributes:
    equivariant_features: number of features in the second part.
    invariance_weight: weight of the squared difference of the first part.
    prediction_weight: weight of the squared error of the prediction.
    variance_weight: weight of the amount by which deviations are below 1.
    covariance_weight: weight of the squared covariances.
    invariant_projector: widths of the projector of the first part.
    equivariant_projector: widths of the projector of the second part.

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
    """The method's two views, with their parameters."""
    return request_pair(views, parameters=True)

  def make_heads(self, **common: Any) -> dict[str, nn.Module]:
    """A projector for each part, and the hypernetwork."""
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
    """The embeddings, named as the arguments of the function `loss`."""
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
    """Refuses a width that leaves no invariant features."""
    if self.equivariant_features >= width:
      raise UsageError(
        f"config.{self.section}.equivariant_features"
        f" {self.equivariant_features} must be fewer than the {width} features"
        " of the encoder; the others are invariant"
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
    """See `term.Predictor`; embeds the equivariant features."""
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
    """See the function `loss`; also returns the error of the prediction."""
    del targets
    weights = {name: getattr(self, f"{name}_weight") for name in PARTS}
    value = loss(**outputs, weights=weights, axis_name=axis_name)
    error = jnp.mean((outputs["predicted"] - outputs["equivariant2"]) ** 2)
    return value, {f"{self.section}_prediction": error}


PART = SIE
