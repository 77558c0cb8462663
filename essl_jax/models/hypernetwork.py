"""A linear map of features whose weights depend on another array."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax.models.heads import uniform_fan_in


class Hypernetwork(nn.Module):
  """Multiplies each row by a matrix that is linear in the row's parameters.

  The matrix of a row is `M = sum over t of parameters[t] * kernel[t]`. It is
  never formed: the outer product of parameters and features, times one kernel,
  gives the same result.

  Attributes:
    width: Size of the output; None means that of the features.
    dtype: Dtype of the computation; the kernel stays float32.
    dot_general: Replacement for `jax.lax.dot_general`.

  Example:
    >>> network = Hypernetwork(width=4)
    >>> x, parameters = jnp.zeros((2, 3)), jnp.ones((2, 5))
    >>> variables = network.init(jax.random.key(0), x, parameters)
    >>> variables["params"]["dense"]["kernel"].shape  # [5 * 3, 4]
    (15, 4)

  Reference:
    Garrido et al. 2023 (arXiv 2302.10283), section 3.2.
  """

  width: int | None = None
  dtype: Any = jnp.float32
  dot_general: Callable[..., jax.Array] = jax.lax.dot_general

  @nn.compact
  def __call__(self, x: jax.Array, parameters: jax.Array) -> jax.Array:
    """Maps features `[N, F]` to `[N, width]`.

    Args:
      x: Features, `[N, F]`.
      parameters: Each row's parameters, `[N, T]`.

    Returns:
      The products, `[N, width]`, float32.

    Raises:
      ValueError: The arrays do not have two axes and the same number of rows.
    """
    if x.ndim != 2 or parameters.ndim != 2 or len(x) != len(parameters):
      raise ValueError(
        "features must be [N, F] and parameters [N, T], got shapes"
        f" {x.shape} and {parameters.shape}"
      )
    x, parameters = (jnp.asarray(a, self.dtype) for a in (x, parameters))
    outer = parameters[:, :, None] * x[:, None, :]
    # Initialised like PyTorch's linear layer from parameters to the matrix.
    dense = nn.Dense(
      x.shape[1] if self.width is None else self.width,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=uniform_fan_in(parameters.shape[1]),
      dot_general=self.dot_general,
      name="dense",
    )
    return dense(outer.reshape(len(x), -1)).astype(jnp.float32)
