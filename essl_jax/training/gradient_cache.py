"""Gradients of losses that couple all examples, a micro-batch at a time.

Contrastive losses and Barlow Twins compare every example with every other, so
plain gradient accumulation changes them: it drops the negatives of the other
micro-batches. Here the networks run twice. The first pass keeps only their
outputs; the loss of all outputs together is differentiated with respect to
them; the second pass propagates those gradients back into the parameters, one
micro-batch after the other. Only one micro-batch's activations are alive at a
time. The gradient is exact with one exception: batch norm takes its statistics
from a micro-batch (of all devices).

Reference: Gao et al. 2021 (arXiv 2101.06983), section 3.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

Forward = Callable[[Any, Any, Any], tuple[Any, Any]]
Objective = Callable[[Any], tuple[jax.Array, Any]]


def gradients(
  forward: Forward,
  objective: Objective,
  params: Any,
  batch_stats: Any,
  inputs: Any,
  *,
  examples: int,
  micro_batches: int = 1,
) -> tuple[Any, Any, Any, Any]:
  """Differentiates `objective(forward(params, batch_stats, inputs))`.

  Args:
    forward: `(params, batch_stats, inputs) -> (outputs, batch_stats)`: the
      networks on any number of examples. Output arrays have as many rows as the
      inputs they come from.
    objective: `outputs -> (loss, auxiliary)`, of all outputs together.
    params: what is differentiated.
    batch_stats: running statistics, handed from one micro-batch to the next.
    inputs: tree of arrays [N, ...] or [K * N, ...], where rows i, N + i,
      2N + i, ... belong to example i.
    examples: N.
    micro_batches: how many to divide the N examples into.

  Returns:
    The gradients, the auxiliary, all outputs, and the new running statistics.

  Raises:
    ValueError: `micro_batches` does not divide `examples`.
  """
  if micro_batches == 1:

    def whole(params: Any) -> tuple[jax.Array, Any]:
      outputs, statistics = forward(params, batch_stats, inputs)
      loss, auxiliary = objective(outputs)
      return loss, (auxiliary, outputs, statistics)

    grads, rest = jax.grad(whole, has_aux=True)(params)
    return grads, *rest

  if examples % micro_batches:
    raise ValueError(
      f"{examples} examples cannot be divided into {micro_batches}"
      " micro-batches"
    )
  return _in_parts(
    forward, objective, params, batch_stats, inputs, examples, micro_batches
  )


def _in_parts(
  forward: Forward,
  objective: Objective,
  params: Any,
  batch_stats: Any,
  inputs: Any,
  examples: int,
  micro_batches: int,
) -> tuple[Any, Any, Any, Any]:
  """The two passes of `gradients`."""
  split = lambda x: divide(x, examples, micro_batches)
  parts = jax.tree.map(split, inputs)

  def first_pass(statistics: Any, part: Any) -> tuple[Any, Any]:
    outputs, statistics = forward(params, statistics, part)
    return statistics, outputs

  statistics, outputs = lax.scan(first_pass, batch_stats, parts)
  size = examples // micro_batches
  outputs = jax.tree.map(lambda x: join(x, size), outputs)
  cached, auxiliary = jax.grad(objective, has_aux=True)(outputs)
  cached = jax.tree.map(split, cached)

  def second_pass(total: Any, part: Any) -> tuple[Any, None]:
    inputs, cotangents = part
    run = lambda params: forward(params, batch_stats, inputs)[0]
    _, pullback = jax.vjp(run, params)
    (grads,) = pullback(cotangents)
    return jax.tree.map(jnp.add, total, grads), None

  zeros = jax.tree.map(jnp.zeros_like, params)
  grads, _ = lax.scan(second_pass, zeros, (parts, cached))
  return grads, auxiliary, outputs, statistics


def divide(x: jax.Array, examples: int, micro_batches: int) -> jax.Array:
  """[K * N, ...] to [M, K * N / M, ...], all rows of an example together."""
  size = examples // micro_batches
  split = x.reshape(-1, micro_batches, size, *x.shape[1:])
  return jnp.moveaxis(split, 1, 0).reshape(micro_batches, -1, *x.shape[1:])


def join(x: jax.Array, size: int) -> jax.Array:
  """The inverse of `divide`."""
  split = x.reshape(x.shape[0], -1, size, *x.shape[2:])
  return jnp.moveaxis(split, 0, 1).reshape(-1, *x.shape[2:])
