"""SimSiam: a predictor and a stopped gradient in place of negatives."""

from typing import Any

import jax
import optax

from essl_jax import losses
from essl_jax.config import bounds
from essl_jax.methods.method import (
  Features,
  Heads,
  Method,
  Outputs,
  Projector,
  two_projections,
)
from essl_jax.models import heads as heads_lib


class SimSiam(Method):
  """Symmetric negative cosine similarity of predictions and projections.

  The predictor keeps a constant learning rate.

  Attributes:
    projector: features to projections.
    predictor_hidden: width of the predictor's hidden layer.

  Reference:
    Chen and He 2021 (arXiv 2011.10566), equations 1 and 2; section 4.2,
    "Predictor".
  """

  projector: Projector = Projector()
  predictor_hidden: bounds.Count = 512

  def make_heads(self, **common: Any) -> dict[str, Any]:
    """Projector and predictor."""
    width = self.projector.widths[-1]
    return {
      "projector": self.projector.make(**common),
      "predictor": heads_lib.predictor(self.predictor_hidden, width, **common),
    }

  def forward(self, heads: Heads, features: Features) -> dict[str, Any]:
    """Projections and predictions of both views, each [N, D]."""
    projections = two_projections(heads, features)
    predictions = tuple(heads["predictor"](z) for z in projections)
    return {"projections": projections, "predictions": predictions}

  def loss(
    self, outputs: Outputs, *, axis_name: str | None = None
  ) -> jax.Array:
    """See `losses.negative_cosine_similarity`; examples stay apart."""
    del axis_name
    p1, p2 = outputs.own["predictions"]
    z1, z2 = outputs.own["projections"]
    cosine = losses.negative_cosine_similarity
    return (cosine(p1, z2) + cosine(p2, z1)) / 2

  def learning_rates(
    self, peak: float, schedule: optax.Schedule
  ) -> dict[str, optax.ScalarOrSchedule]:
    """The predictor's is constant."""
    del schedule
    return {"predictor": peak}


PART = SimSiam
