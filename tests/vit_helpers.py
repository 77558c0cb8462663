"""What tests of vision transformers share."""

import numpy as np


def block_output(model, variables, x, block=-1, **keywords):
  """Tokens after a block."""
  name = f"blocks_{block % model.depth}"
  _, captured = model.apply(
    variables,
    x,
    mutable=["intermediates"],
    capture_intermediates=lambda module, _: module.name == name,
    **{"train": False, **keywords},
  )
  return captured["intermediates"][name]["__call__"][0]


def layer_norm(x, params):
  """Layer norm in NumPy."""
  x = np.asarray(x, np.float64)
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x * np.asarray(params["scale"]) + np.asarray(params["bias"])
