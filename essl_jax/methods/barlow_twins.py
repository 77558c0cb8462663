"""Barlow Twins: redundancy reduction between two views."""

from typing import Any

import jax

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


class BarlowTwins(Method):
  """The cross-correlation of two views' projections should be the identity.

  Attributes:
    redundancy_weight: weight of the squared off-diagonal correlations.
    projector: features to projections.

  Reference:
    Zbontar et al. 2021 (arXiv 2103.03230), equations 1 and 2.
  """

  redundancy_weight: bounds.NonNegative = 0.0051
  projector: Projector = Projector((8192, 8192, 8192), "none")

  def make_heads(self, **common: Any) -> dict[str, Any]:
    """The projector."""
    return {"projector": self.projector.make(**common)}

  def forward(self, heads: Heads, features: Features) -> dict[str, Any]:
    """The projections of both views, each [N, D]."""
    return {"projections": two_projections(heads, features)}

  def loss(
    self, outputs: Outputs, *, axis_name: str | None = None
  ) -> jax.Array:
    """See `losses.barlow_twins`."""
    return losses.barlow_twins(
      *outputs.own["projections"],
      redundancy_weight=self.redundancy_weight,
      axis_name=axis_name,
    )


PART = BarlowTwins
