"""Attention by platform, called like `jax.nn.dot_product_attention`."""

from collections.abc import Callable
import re

import jax
import jax.numpy as jnp

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""Maps queries, keys and values [N, T, heads, D] to [N, T, heads, D]."""

_TYPES = (jnp.bfloat16, jnp.float16)
_LEAST_CAPABILITY = (8, 0)
_DIVISOR, _WIDEST = 8, 128  # of a head's channels


def gpu_attention(
  query: jax.Array, key: jax.Array, value: jax.Array
) -> jax.Array:
  """Computes attention with cuDNN's fused kernel where it supports the arrays.

  It needs an NVIDIA GPU of compute capability 8.0 or more, 16-bit arrays, and
  heads of up to 128 channels, a multiple of 8. Otherwise XLA's own code runs.
  The kernel has not been tried on a GPU.

  Args:
    query: `[N, T, heads, D]`.
    key: `[N, T, heads, D]`.
    value: `[N, T, heads, D]`.

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
    except (NotImplementedError, RuntimeError):  # no cuDNN, or a bad shape
      pass
  return jax.nn.dot_product_attention(query, key, value, implementation="xla")


def has_kernel() -> bool:
  """Tells whether this process has an NVIDIA GPU that is new enough."""
  if jax.default_backend() != "gpu":  # compiling for a GPU on another machine
    return False
  capability = getattr(jax.local_devices()[0], "compute_capability", "")
  number = re.fullmatch(r"(\d+)\.(\d+)", str(capability))  # not so on AMD
  return number is not None and (
    (int(number[1]), int(number[2])) >= _LEAST_CAPABILITY
  )


def default_attention(platform: str | None = None) -> Attend:
  """Returns the fast attention of a platform.

  Args:
    platform: Platform that will run it, such as "tpu"; by default that of the
      default backend.

  Returns:
    `gpu_attention` on a GPU, else `jax.nn.dot_product_attention`.
  """
  if (platform or jax.default_backend()) in ("gpu", "cuda"):
    return gpu_attention
  return jax.nn.dot_product_attention
