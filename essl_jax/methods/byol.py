"""BYOL: a predictor learns the projections of a target network."""

from typing import Any

import jax

from essl_jax import losses
from essl_jax.config import bounds
from essl_jax.methods.method import Projector
from essl_jax.methods.two_views import WithTarget
from essl_jax.models import heads


class BYOL(WithTarget):
  """Distance between predictions and the other view's target projections.

  The target network is a moving average of the trained one. The loss adds both
  directions.

  Attributes:
    predictor_hidden: width of the predictor's hidden layer.

  Reference:
    Grill et al. 2020 (arXiv 2006.07733), equation 2 and section 3.2.
  """

  projector: Projector = Projector((4096, 256), last_norm="none", bias=True)
  predictor_hidden: bounds.Width = 4096

  def make_heads(self, **common: Any) -> dict[str, Any]:
    """Makes projector and predictor, with biases."""
    widths = (self.predictor_hidden, self.projector.widths[-1])
    predictor = heads.MLP(widths, **common)
    return super().make_heads(**common) | {"predictor": predictor}

  def towards(
    self,
    predictions: jax.Array,
    targets: jax.Array,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    """See `losses.byol`; examples are independent."""
    del axis_name
    return losses.byol(predictions, targets)


PART = BYOL
