"""SimCLR with its original loss: negatives come from both views."""

import jax

from essl_jax import losses
from essl_jax.methods.method import Outputs
from essl_jax.methods.simclr import SimCLR


class SimCLRNTXent(SimCLR):
  """NT-Xent, SimCLR's normalised temperature-scaled cross entropy.

  Reference:
    Chen et al. 2020 (arXiv 2002.05709), equation 1.
  """

  def compare(
    self,
    outputs: Outputs,
    full: int,
    other: int,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    """See `losses.nt_xent`."""
    z = outputs.own["projections"]
    return losses.nt_xent(
      z[full],
      z[other],
      temperature=self.temperature,
      axis_name=axis_name,
    )


PART = SimCLRNTXent
