"""No SSL loss: training with equivariance terms only, as in RotNet."""

from typing import Any

import jax
import jax.numpy as jnp

from essl_jax.errors import UsageError
from essl_jax.methods.method import Features, Heads, Method, Outputs


class TermsAlone(Method):
  """No SSL views, heads or loss.

  Reference:
    Gidaris et al. 2018 (arXiv 1803.07728), which only predicts rotations.
  """

  views = ()

  def check(self, config: Any) -> None:
    """Refuses settings that need the views of an SSL loss."""
    if config.views.extra is not None:
      raise UsageError(
        "config.views.extra applies to the views of an SSL loss, but"
        " config.method=none has none: leave it unset"
      )

  def make_heads(self, **common: Any) -> dict[str, Any]:
    """Returns no heads."""
    del common
    return {}

  def forward(self, heads: Heads, features: Features) -> dict[str, Any]:
    """Returns nothing."""
    del heads, features
    return {}

  def loss(
    self, outputs: Outputs, *, axis_name: str | None = None
  ) -> jax.Array:
    """Returns zero."""
    del outputs, axis_name
    return jnp.zeros((), jnp.float32)


PART = TermsAlone
