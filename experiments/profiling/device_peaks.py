"""Measures the limits of the device: arithmetic and memory."""

from collections.abc import Callable
import time
from typing import Any

import jax
import jax.numpy as jnp

# Calls that take this many seconds are timed one by one; larger ones are no
# faster.
_LONG, _SAMPLES = 0.05, 10


def flops_per_second(precision: str, largest: int = 8192) -> float:
  """Measures the best rate of a square matrix product.

  Args:
    precision: the dtype of the matrices, at JAX's default precision.
    largest: the largest side to try.

  Returns:
    Operations per second; a multiplication with an addition counts as two.
  """
  best, side = 0.0, min(512, largest)
  multiply = jax.jit(jnp.matmul)
  while side <= largest:
    matrix = jnp.full((side, side), 0.5, jnp.dtype(precision))
    seconds = fastest(lambda _, x=matrix: multiply(x, x), matrix)
    best = max(best, 2 * side**3 / seconds)
    if seconds > _LONG:
      break
    side *= 2
  return best


def bytes_per_second(size: int = 2**28) -> float:
  """Measures the best rate of reading and writing a large array.

  The array is written in place, since a step does not request new memory from
  the operating system either.

  Args:
    size: bytes of the array.

  Returns:
    Bytes read and written per second.
  """
  array = jnp.full((size // 4,), 0.5, jnp.float32)
  return 2 * size / fastest(jax.jit(jnp.negative, donate_argnums=0), array)


def fastest(function: Callable[[Any], Any], first: Any) -> float:
  """Seconds of `x = function(x)`, the best of several series of calls."""
  x = jax.block_until_ready(function(first))
  seconds, calls = [], 1
  for _ in range(_SAMPLES):
    start = time.perf_counter()
    for _ in range(calls):
      x = function(x)
    jax.block_until_ready(x)
    seconds.append((time.perf_counter() - start) / calls)
    # For short calls, the time of launching them would be measured too.
    calls = max(1, min(20, int(_LONG / min(seconds))))
  return min(seconds)
