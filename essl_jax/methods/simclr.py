"""SimCLR with E-SSL's loss: negatives come only from the other view."""

import functools

import jax

from essl_jax import losses
from essl_jax.config import bounds
from essl_jax.methods.method import Outputs
from essl_jax.methods.two_views import TwoViews


class SimCLR(TwoViews):
  """InfoNCE averaged over both directions, as in the E-SSL program.

  Attributes:
    temperature: divisor of the cosine similarities.

  Reference:
    Chen et al. 2020 (arXiv 2002.05709); Dangovski et al. 2022 (arXiv
    2111.00899), section 4.
  """

  temperature: bounds.Positive = 0.5

  def compare(
    self,
    outputs: Outputs,
    full: int,
    other: int,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    """See `losses.info_nce`."""
    z1, z2 = (outputs.own["projections"][i] for i in (full, other))
    info_nce = functools.partial(
      losses.info_nce, temperature=self.temperature, axis_name=axis_name
    )
    return (info_nce(z1, z2) + info_nce(z2, z1)) / 2


PART = SimCLR
