"""VICReg: variance, invariance and covariance of two views."""

import jax

from essl_jax import losses
from essl_jax.config import bounds
from essl_jax.methods.method import Outputs, Projector
from essl_jax.methods.two_views import TwoViews


class VICReg(TwoViews):
  """Views agree, and dimensions vary without being correlated.

  Attributes:
    invariance_weight: weight of the squared difference between the views.
    variance_weight: weight of how far standard deviations fall short of 1,
      added over both views.
    covariance_weight: weight of the squared covariances, added over both views.

  Reference:
    Bardes et al. 2022 (arXiv 2105.04906), equations 1 to 6.
  """

  projector: Projector = Projector((2048, 2048, 2048), "none", bias=True)
  invariance_weight: bounds.NonNegative = 25.0
  variance_weight: bounds.NonNegative = 25.0
  covariance_weight: bounds.NonNegative = 1.0

  def compare(
    self,
    outputs: Outputs,
    full: int,
    other: int,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    """See `losses.vicreg`."""
    z = outputs.own["projections"]
    return losses.vicreg(
      z[full],
      z[other],
      invariance_weight=self.invariance_weight,
      variance_weight=self.variance_weight,
      covariance_weight=self.covariance_weight,
      axis_name=axis_name,
    )


PART = VICReg
