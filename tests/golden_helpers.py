"""Compares networks with golden numbers of PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np


def run(model, variables, x, train):
  """Output and new batch statistics, jitted."""

  @jax.jit
  def apply(variables, x):
    return model.apply(variables, x, train=train, mutable=["batch_stats"])

  return apply(variables, x)


def check_eval_train(model, variables, golden, name):
  """Compares both outputs; returns the statistics after the train pass."""
  x = golden[f"{name}/input"]
  for train, key in ((False, "eval"), (True, "train")):
    out, updates = run(model, variables, x, train)
    expected = golden[f"{name}/{key}"]
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
  return updates.get("batch_stats", {})


def check_statistics(before, after, expected, values_per_channel):
  """Compares with PyTorch's, whose running variance is unbiased.

  Args:
    before: Path to statistic before the pass.
    after: The same after it.
    expected: The same after it, by PyTorch.
    values_per_channel: Path to the number n of values per channel.
  """
  assert set(after) == set(expected)
  for path, value in after.items():
    if path[-1] == "var":
      n = values_per_channel(path)
      batch = (np.asarray(value) - 0.9 * before[path]) * n / (n - 1)
      value = 0.9 * before[path] + batch
    np.testing.assert_allclose(
      value, expected[path], rtol=1e-3, atol=1e-4, err_msg=str(path)
    )
