"""BYOL: predictions of a target network's projections."""

from typing import Any

import jax

from essl_jax import losses, optim
from essl_jax.config import bounds
from essl_jax.methods.method import Outputs, Projector, TwoViews
from essl_jax.models import heads


class BYOL(TwoViews):
  """The distance of predictions to the other view's target projection.

  The target network is an average of the trained one; both directions are
  added.

  Attributes:
    predictor_hidden: width of the predictor's hidden layer.
    target_decay: fraction of the target network that a step keeps, at the
      start; it rises to 1 along half a cosine.

  Reference:
    Grill et al. 2020 (arXiv 2006.07733), equation 2 and section 3.2.
  """

  target_heads = ("projector",)

  projector: Projector = Projector((4096, 256), last_norm="none", bias=True)
  predictor_hidden: bounds.Width = 4096
  target_decay: bounds.Unit = 0.99

  def make_heads(self, **common: Any) -> dict[str, Any]:
    """Projector and predictor, with biases."""
    widths = (self.predictor_hidden, self.projector.widths[-1])
    predictor = heads.MLP(widths, **common)
    return super().make_heads(**common) | {"predictor": predictor}

  def target_momentum(self, step: jax.Array, total_steps: int) -> jax.Array:
    """See `optim.momentum_coefficient`."""
    return optim.momentum_coefficient(self.target_decay, total_steps)(step)

  def loss(
    self, outputs: Outputs, *, axis_name: str | None = None
  ) -> jax.Array:
    """See `losses.byol`; examples stay apart."""
    del axis_name
    p1, p2 = outputs.own["predictions"]
    k1, k2 = outputs.target["projections"]
    return losses.byol(p1, k2) + losses.byol(p2, k1)


PART = BYOL
