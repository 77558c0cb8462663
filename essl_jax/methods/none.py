"""No SSL loss: the equivariance terms alone are learned, as by RotNet."""

from typing import Any

import jax
import jax.numpy as jnp

from essl_jax.errors import UsageError
from essl_jax.methods.method import Features, Heads, Method, Outputs


class TermsAlone(Method):
  """No SSL views, heads or loss.

  Reference:
    Gidaris et al. 2018 (arXiv 1803.07728), which predicts rotations alone.
  """

  views = ()

  def check(self, config: Any) -> None:
    """Refuses what needs the views of an SSL loss."""
    if config.views.extra is not None:
      raise UsageError(
        "config.views.extra is for the views of an SSL loss, and"
        " config.method=none has none: leave it unset"
      )

  def make_heads(self, **common: Any) -> dict[str, Any]:
    """None."""
    del common
    return {}

  def forward(self, heads: Heads, features: Features) -> dict[str, Any]:
    """Nothing."""
    del heads, features
    return {}

  def loss(
    self, outputs: Outputs, *, axis_name: str | None = None
  ) -> jax.Array:
    """Zero."""
    del outputs, axis_name
    return jnp.zeros((), jnp.float32)


PART = TermsAlone
