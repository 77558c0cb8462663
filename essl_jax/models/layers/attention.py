"""Attention by platform, in the form of `jax.nn.dot_product_attention`."""

from collections.abc import Callable
import re

import jax
import jax.numpy as jnp

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""Queries, keys and values, each [N, T, heads, D], to [N, T, heads, D]."""

_TYPES = (jnp.bfloat16, jnp.float16)
_LEAST_CAPABILITY = (8, 0)
_DIVISOR, _WIDEST = 8, 128  # of a head's channels


def gpu_attention(
  query: jax.Array, key: jax.Array, value: jax.Array
) -> jax.Array:
  """Attention by cuDNN's fused kernel, where it takes the arrays.

  That is on NVIDIA GPUs from compute capability 8.0 on, in 16 bits, for heads
  of up to 128 channels, a multiple of 8. All else is XLA's own. The kernel has
  not been tried on a GPU.

  Args:
    query: `[N, T, heads, D]`.
    key: Likewise.
    value: Likewise.

  Returns:
    `[N, T, heads, D]`.
  """
  channels = query.shape[-1]
  is_fit = query.dtype in _TYPES and channels % _DIVISOR == 0
  if is_fit and channels <= _WIDEST and has_kernel():
    try:
      return jax.nn.dot_product_attention(
        query, key, value, implementation="cudnn"
      )
    except (NotImplementedError, RuntimeError):  # no cuDNN, or another shape
      pass
  return jax.nn.dot_product_attention(query, key, value, implementation="xla")


def has_kernel() -> bool:
  """Whether the GPU of this process is new enough, and of NVIDIA."""
  if jax.default_backend() != "gpu":  # it compiles for a GPU elsewhere
    return False
  capability = getattr(jax.local_devices()[0], "compute_capability", "")
  number = re.fullmatch(r"(\d+)\.(\d+)", str(capability))  # AMD has others
  return number is not None and (
    (int(number[1]), int(number[2])) >= _LEAST_CAPABILITY
  )


def default_attention(platform: str | None = None) -> Attend:
  """The fast attention of a platform.

  Args:
    platform: Of the devices that will run it, such as "tpu"; the default
      backend's when absent.

  Returns:
    What stands in for `jax.nn.dot_product_attention`: `gpu_attention` on a GPU.
  """
  if (platform or jax.default_backend()) in ("gpu", "cuda"):
    return gpu_attention
  return jax.nn.dot_product_attention
