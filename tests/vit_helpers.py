"""What tests of vision transformers share."""

import functools

import jax
import numpy as np


@functools.cache
def _blocks(model, train):
  """The tokens after every block, compiled."""

  @jax.jit
  def run(variables, x, rngs):
    _, captured = model.apply(
      variables,
      x,
      train=train,
      mutable=["intermediates"],
      capture_intermediates=lambda module, _: "blocks_" in str(module.name),
      rngs=rngs,
    )
    found = captured["intermediates"]
    names = [f"blocks_{i}" for i in range(model.depth)]
    return [found[name]["__call__"][0] for name in names]

  return run


def block_output(model, variables, x, block=-1, *, train=False, rngs=None):
  """Tokens after a block."""
  return _blocks(model, train)(variables, x, rngs or {})[block]


def layer_norm(x, params):
  """Layer norm in NumPy."""
  x = np.asarray(x, np.float64)
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x * np.asarray(params["scale"]) + np.asarray(params["bias"])
