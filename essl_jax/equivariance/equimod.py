"""EquiMod's term: predicts how an augmentation displaces an embedding."""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax import inputs, losses
from essl_jax.augment import DrawnView, View, ViewRequest, plain_view
from essl_jax.config import bounds
from essl_jax.equivariance import vectors
from essl_jax.equivariance.term import PAIR, Metrics, Term, request_pair
from essl_jax.methods.method import Features, Heads, Projector
from essl_jax.models.heads import MLP

_PLAIN = "plain"


@inputs.any_sharding(by_example=False)
def loss(
  embeddings: chex.Array,
  predicted: chex.Array,
  *,
  temperature: jax.typing.ArrayLike,
  axis_name: str | None = None,
) -> jax.Array:
  """NT-Xent between embeddings of augmented views and their predictions.

  Each embedding must find its prediction, and each prediction its embedding,
  among 2M - 2 negatives. The gradient flows into both.

  Args:
    embeddings: [M, D], of both augmented views, stacked; normalised inside.
    predicted: [M, D], each the displaced embedding of the plain image;
      normalised inside.
    temperature: divides cosine similarities; above 0, and 0.2 in the paper.
    axis_name: mapped axis; both arrays are gathered over its devices.

  Returns:
    The mean loss, a float32 scalar.

  Raises:
    ValueError: the shapes differ or are not [M, D], all devices together have
      one row, or the temperature is not a number above 0.

  Example:
    >>> z = jnp.eye(4)
    >>> print(round(float(loss(z, z, temperature=0.2)), 4))
    0.0396

  Reference:
    Devillers and Lefort 2023 (arXiv 2211.01244), section 3.2.
  """
  return losses.nt_xent(
    embeddings, predicted, temperature=temperature, axis_name=axis_name
  )


class EquiMod(Term):
  """Predicts the views' embeddings from the plain image's and their parameters.

  A third view, the plain image, is resized and not augmented.

  Attributes:
    temperature: divides cosine similarities.
    projector: widths of the projector from features to embeddings.
    parameters_width: width of the layer that takes the parameters of a view.

  Reference:
    Devillers and Lefort 2023 (arXiv 2211.01244), section 3.
  """

  section = "equimod"

  temperature: bounds.Positive = 0.2
  projector: Projector = Projector((2048, 2048, 128))
  parameters_width: bounds.Width = 128

  def requests(self, views: Any) -> list[ViewRequest]:
    """The method's two views with their parameters, and the plain view."""
    seen = request_pair(views, parameters=True)
    return [*seen, self.predicted_from(views)]

  def make_heads(self, **common: Any) -> dict[str, nn.Module]:
    """The projector, the layer for the parameters, and the predictor."""
    return {
      "equimod_projector": self.projector.make(**common),
      "equimod_parameters": MLP(
        (self.parameters_width,), output_norm="batch", **common
      ),
      "equimod_predictor": MLP((self.projector.widths[-1],), **common),
    }

  def forward(
    self, heads: Heads, features: Features, targets: Mapping[str, Any]
  ) -> dict[str, jax.Array]:
    """`embeddings` of both views and those `predicted`, each [2 N, D]."""
    embeddings = [self.embed(heads, features[name]) for name in PAIR]
    plain = self.embed(heads, features[_PLAIN])
    seen = [targets["parameters"][name] for name in PAIR]
    views = [x.view for x in seen]
    predicted = [self.predict(heads, plain, None, x, views) for x in seen]
    return {
      "embeddings": jnp.concatenate(embeddings),
      "predicted": jnp.concatenate(predicted),
    }

  def predicted_from(self, views: Any) -> ViewRequest:
    """See `term.Predictor`: the plain view."""
    return ViewRequest(_PLAIN, plain_view(views.first))

  def embed(self, heads: Heads, features: jax.Array) -> jax.Array:
    """See `term.Predictor`."""
    return heads["equimod_projector"](features)

  def predict(
    self,
    heads: Heads,
    embeddings: jax.Array,
    drawn_from: DrawnView | None,
    drawn: DrawnView,
    views: Sequence[View],
  ) -> jax.Array:
    """See `term.Predictor`."""
    del drawn_from
    moves = heads["equimod_parameters"](vectors.as_vector(drawn, views))
    both = jnp.concatenate([embeddings, moves], axis=1)
    return heads["equimod_predictor"](both)

  def loss(
    self,
    outputs: Any,
    targets: Mapping[str, Any],
    *,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, Metrics]:
    """See the function `loss`."""
    del targets
    value = loss(**outputs, temperature=self.temperature, axis_name=axis_name)
    return value, {}


PART = EquiMod
