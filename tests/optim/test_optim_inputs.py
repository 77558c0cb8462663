"""Optimizers and schedules with 64 bits enabled."""

import jax
import numpy as np
import pytest

from essl_jax import optim

pytestmark = pytest.mark.quick


def test_64_bits_change_nothing():
  """Updates of float32 stay float32, also if settings are NumPy numbers."""
  params = {"kernel": np.ones((3, 4), np.float32)}
  rate = optim.warmup_cosine(np.float64(0.1), warmup_steps=0, total_steps=5)
  makes = (
    lambda: optim.sgd(np.float64(0.1), weight_decay=1e-3, momentum=0.9),
    lambda: optim.lars(np.float64(0.1), weight_decay=np.float64(1e-3)),
    lambda: optim.adamw(rate, weight_decay=np.float64(1e-3)),
  )

  def update(make):
    optimizer = make()
    state = optimizer.init(params)
    return jax.jit(optimizer.update)(params, state, params)

  for make in makes:
    expected = update(make)
    with jax.enable_x64(True):
      found = update(make)
    for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
      assert x.dtype == y.dtype
      # Optax corrects AdamW's moments in the widest float dtype.
      np.testing.assert_allclose(x, y, rtol=1e-5)
  with jax.enable_x64(True):
    for schedule in (rate, optim.momentum_coefficient(np.float64(0.9), 4)):
      assert schedule(3).dtype == schedule(np.int64(3)).dtype == np.float32
