"""Barlow Twins: redundancy reduction between two views."""

import jax

from essl_jax import losses
from essl_jax.config import bounds
from essl_jax.methods.method import Outputs, Projector
from essl_jax.methods.two_views import TwoViews


class BarlowTwins(TwoViews):
  """The cross-correlation of two views' projections should be the identity.

  Attributes:
    redundancy_weight: weight of the squared off-diagonal correlations.

  Reference:
    Zbontar et al. 2021 (arXiv 2103.03230), equations 1 and 2.
  """

  projector: Projector = Projector((8192, 8192, 8192), "none")
  redundancy_weight: bounds.NonNegative = 0.0051

  def compare(
    self,
    outputs: Outputs,
    full: int,
    other: int,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    """See `losses.barlow_twins`."""
    z = outputs.own["projections"]
    return losses.barlow_twins(
      z[full],
      z[other],
      redundancy_weight=self.redundancy_weight,
      axis_name=axis_name,
    )


PART = BarlowTwins
