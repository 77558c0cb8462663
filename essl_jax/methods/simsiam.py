"""SimSiam: a predictor and a stopped gradient replace negatives."""

from typing import Any

import jax
import optax

from essl_jax import losses
from essl_jax.config import bounds
from essl_jax.methods.method import Outputs
from essl_jax.methods.two_views import TwoViews
from essl_jax.models import heads


class SimSiam(TwoViews):
  """Symmetric negative cosine similarity of predictions and projections.

  The predictor keeps a constant learning rate.

  Attributes:
    predictor_hidden: width of the predictor's hidden layer.

  Reference:
    Chen and He 2021 (arXiv 2011.10566), equations 1 and 2; section 4.2,
    "Predictor".
  """

  predictor_hidden: bounds.Width = 512

  def make_heads(self, **common: Any) -> dict[str, Any]:
    """Makes projector and predictor."""
    width = self.projector.widths[-1]
    predictor = heads.predictor(self.predictor_hidden, width, **common)
    return super().make_heads(**common) | {"predictor": predictor}

  def compare(
    self,
    outputs: Outputs,
    full: int,
    other: int,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    """See `losses.negative_cosine_similarity`; examples are independent."""
    del axis_name
    p1, p2 = (outputs.own["predictions"][i] for i in (full, other))
    z1, z2 = (outputs.own["projections"][i] for i in (full, other))
    cosine = losses.negative_cosine_similarity
    return (cosine(p1, z2) + cosine(p2, z1)) / 2

  def learning_rates(
    self, peak: float, schedule: optax.Schedule
  ) -> dict[str, optax.ScalarOrSchedule]:
    """Keeps the predictor's rate constant."""
    del schedule
    return {"predictor": peak}


PART = SimSiam
