"""MoCo v3: a predictor finds the target network's projection of its image."""

from typing import Any, Literal

import jax

from essl_jax import losses
from essl_jax.config import bounds
from essl_jax.methods.method import Projector
from essl_jax.methods.two_views import WithTarget
from essl_jax.models import heads


class MoCoV3(WithTarget):
  """InfoNCE from predictions to the target projections of the whole batch.

  The loss adds both directions. The paper's heads depend on the encoder.
  ResNets: the defaults. Vision transformers: a projector with three layers
  (4096, 4096, 256), and `predictor_norm` `batch_not_affine`.

  Attributes:
    predictor_hidden: width of the predictor's hidden layer.
    predictor_norm: norm after the predictor's last layer: `batch`,
      `batch_not_affine` or `none`. The predictor has biases if the projector
      has.
    temperature: divisor of the cosine similarities.

  Reference:
    Chen et al. 2021 (arXiv 2104.02057), algorithm 1 and section 4.3.
  """

  projector: Projector = Projector((4096, 256))
  predictor_hidden: bounds.Width = 4096
  predictor_norm: Literal["batch", "batch_not_affine", "none"] = "none"
  temperature: bounds.Positive = 0.2

  def make_heads(self, **common: Any) -> dict[str, Any]:
    """Makes projector and predictor."""
    predictor = heads.projector(
      (self.predictor_hidden, self.projector.widths[-1]),
      last_norm=self.predictor_norm,
      bias=self.projector.bias,
      **common,
    )
    return super().make_heads(**common) | {"predictor": predictor}

  def towards(
    self,
    predictions: jax.Array,
    targets: jax.Array,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    """See `losses.moco_v3`."""
    return losses.moco_v3(
      predictions,
      targets,
      temperature=self.temperature,
      axis_name=axis_name,
    )


PART = MoCoV3
