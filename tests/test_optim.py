"""Schedules against golden values; SGD and the predictor's constant rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax import optim


def test_golden_cifar_schedule(golden):
  """100 epochs of 97 steps, 10 of warm-up, peak 0.12: one value an epoch."""
  expected = golden("optimization")["cifar_e100_w10_n97_base0.12"]
  schedule = optim.warmup_cosine(0.12, warmup_steps=970, total_steps=9700)
  actual = jax.jit(jax.vmap(schedule))(jnp.arange(100) * 97)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_schedule_ends():
  schedule = optim.warmup_cosine(1.0, warmup_steps=0, total_steps=10)
  assert float(schedule(0)) == 1.0
  assert float(schedule(10)) == pytest.approx(0, abs=1e-7)
  with pytest.raises(ValueError, match="10 of 10"):
    optim.warmup_cosine(1.0, warmup_steps=10, total_steps=10)


def test_sgd_is_pytorchs():
  """Decay joins the gradient, the rate multiplies after the momentum."""
  rates = np.array([0.0, 0.5, 0.2], np.float32)
  w = np.array([1.0, -2.0], np.float32)
  optimizer = optim.sgd(
    lambda step: jnp.asarray(rates)[step], weight_decay=0.1, momentum=0.9
  )
  params, velocity = jnp.asarray(w), np.zeros(2)
  state = optimizer.init(params)
  for step, gradient in enumerate(np.random.default_rng(0).normal(size=(3, 2))):
    velocity = 0.9 * velocity + gradient + 0.1 * w
    w = w - rates[step] * velocity
    updates, state = optimizer.update(jnp.asarray(gradient), state, params)
    params = params + updates
  np.testing.assert_allclose(params, w, rtol=1e-5)


def test_predictor_keeps_its_rate():
  params = {"encoder": jnp.ones(3), "predictor": jnp.ones(3)}
  optimizer = optim.make_optimizer(
    lambda step: 0.0 * step,
    predictor_learning_rate=0.5,
    weight_decay=0.0,
    momentum=0.9,
  )
  gradients = jax.tree.map(jnp.ones_like, params)
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  np.testing.assert_array_equal(updates["encoder"], np.zeros(3))
  np.testing.assert_array_equal(updates["predictor"], -0.5 * np.ones(3))
