"""Schedules against golden values; SGD, LARS, AdamW and their groups."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from essl_jax import optim

pytestmark = pytest.mark.quick


def test_golden_cifar_schedule(golden):
  """100 epochs of 97 steps, 10 of warm-up, peak 0.12: one value per epoch."""
  expected = golden("optimization")["cifar_e100_w10_n97_base0.12"]
  schedule = optim.warmup_cosine(0.12, warmup_steps=970, total_steps=9700)
  actual = jax.jit(jax.vmap(schedule))(jnp.arange(100) * 97)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_golden_imagenet_schedules(golden):
  """100 epochs of 312 steps: one value per epoch."""
  file = golden("optimization")
  steps = jnp.arange(100) * 312
  common = {"warmup_steps": 3120, "total_steps": 31200, "end_factor": 0.001}
  simclr = jax.vmap(optim.warmup_cosine(4.8, **common))(steps)
  np.testing.assert_allclose(
    simclr, file["imagenet_simclr_e100_n312"], rtol=0, atol=4.8e-6
  )
  expected = file["imagenet_barlow_twins_e100_n312_weights_biases"]
  for column, peak in enumerate((16 * 0.2, 16 * 0.0048)):
    actual = jax.vmap(optim.warmup_cosine(peak, **common))(steps)
    np.testing.assert_allclose(
      actual, expected[:, column], rtol=0, atol=1e-6 * peak
    )


def test_golden_rate_that_changes_every_epoch(golden):
  file = golden("optimization")
  expected = file["imagenet_simsiam_e100_base_predictor_per_epoch"]
  schedule = optim.warmup_cosine(
    0.1, warmup_steps=0, total_steps=500, constant_steps=5
  )
  actual = jax.vmap(schedule)(jnp.arange(500))
  np.testing.assert_allclose(
    actual, expected[:, 0].repeat(5), rtol=0, atol=1e-6
  )
  with pytest.raises(ValueError, match="at least 1, got 0"):
    optim.warmup_cosine(0.1, warmup_steps=0, total_steps=9, constant_steps=0)
  for wrong in (np.nan, np.inf):
    with pytest.raises(ValueError, match="must be finite"):
      optim.warmup_cosine(wrong, warmup_steps=0, total_steps=9)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_narrow_steps_are_counted_as_others(dtype):
  schedule = optim.warmup_cosine(
    1.0, warmup_steps=0, total_steps=100_000, constant_steps=40_000
  )
  assert schedule(dtype(100)) == schedule(100) == 1


@pytest.mark.parametrize("base", [0.99, 0.996])
def test_golden_momentum_coefficient(golden, base):
  expected = golden("modern_losses")[f"tau_base{base}_100steps"]
  schedule = optim.momentum_coefficient(base, 100)
  actual = jax.jit(jax.vmap(schedule))(jnp.arange(100))
  np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-7)
  np.testing.assert_array_equal(jax.vmap(schedule)(jnp.array([100, 130])), 1)


def test_wrong_momentum_coefficients_are_named():
  with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
    optim.momentum_coefficient(1.5, 100)
  with pytest.raises(ValueError, match="at least 1, got 0"):
    optim.momentum_coefficient(0.99, 0)


def test_golden_lars(golden):
  """Five steps with a changing rate on a matrix and a bias."""
  file = golden("optimization")
  rates = jnp.asarray(file["lars_lr"], jnp.float32)
  optimizer = optim.lars(
    lambda step: rates[step],
    weight_decay=1e-6,
    momentum=0.9,
    trust_coefficient=0.001,
  )
  params = {name: jnp.asarray(file[f"lars_{name}0"]) for name in "wb"}
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for step in range(5):
    gradients = {name: file[f"lars_grads_{name}"][step] for name in "wb"}
    updates, state = update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], file["lars_ws"][step], rtol=1e-5)
    np.testing.assert_allclose(params["b"], file["lars_bs"][step], rtol=1e-5)


def test_lars_leaves_zeros_and_masked_arrays_alone():
  """A norm of zero does not divide, and a custom mask spares an array."""
  params = {"zero": jnp.zeros((2, 2)), "spared": jnp.ones((2, 2))}
  mask = {"zero": True, "spared": False}
  optimizer = optim.lars(1.0, weight_decay=0.5, mask=mask)
  gradients = {"zero": jnp.ones((2, 2)), "spared": jnp.ones((2, 2))}
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  np.testing.assert_array_equal(updates["zero"], -np.ones((2, 2)))
  np.testing.assert_array_equal(updates["spared"], -np.ones((2, 2)))


def test_groups_are_described():
  """The description matches the updates: LARS spares biases and norms."""
  params = {
    "encoder": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
    "predictor": {"kernel": jnp.ones((4, 4))},
  }
  schedule = optim.warmup_cosine(3.2, warmup_steps=0, total_steps=10)
  lars = functools.partial(
    optim.Group, weight_decay=1e-6, momentum=0.9, trust_coefficient=0.001
  )
  groups = {
    "weights": lars(schedule, 3.2),
    "biases": lars(schedule, 0.0768),
    "predictor": lars(0.1, 0.1),
  }
  assert optim.describe_groups(groups, params) == [
    "weights: 12 parameters, learning rate 3.2, weight decay 1e-06,"
    " adaptation LARS 0.001",
    "predictor weights: 16 parameters, learning rate 0.1 (constant), weight"
    " decay 1e-06, adaptation LARS 0.001",
    "biases and norms: 4 parameters, learning rate 0.0768, weight decay 0,"
    " adaptation none",
  ]
  optimizer = optim.make_optimizer(groups)
  gradients = jax.tree.map(lambda x: 2 * jnp.ones_like(x), params)
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  np.testing.assert_allclose(
    updates["encoder"]["kernel"], -3.2e-3 * np.ones((3, 4)), rtol=1e-5
  )
  np.testing.assert_allclose(
    updates["encoder"]["bias"], -3.2 * 2 * np.ones(4), rtol=1e-6
  )
  np.testing.assert_allclose(
    updates["predictor"]["kernel"], -1e-4 * np.ones((4, 4)), rtol=1e-5
  )


def test_schedule_ends():
  schedule = optim.warmup_cosine(1.0, warmup_steps=0, total_steps=10)
  assert float(schedule(0)) == 1.0
  assert float(schedule(10)) == pytest.approx(0, abs=1e-7)
  with pytest.raises(ValueError, match="10 of 10"):
    optim.warmup_cosine(1.0, warmup_steps=10, total_steps=10)


def test_sgd_is_pytorchs():
  """Decay is added to the gradient; the rate multiplies after the momentum."""
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


VIT_LIKE = {
  "encoder": {
    "pos_embed": jnp.ones((1, 5, 4)),
    "cls_token": jnp.ones((1, 1, 4)),
    "patch_embed": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
    "patch_embed_2": {"kernel": jnp.ones((3, 4))},
    "norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
  },
  "predictor": {"kernel": jnp.ones((4, 2))},
}


def test_adamw_is_pytorchs():
  """Decay multiplies the weight by 1 - rate * decay, apart from the moments."""
  rates = np.array([0.0, 0.5, 0.2, 0.1])
  decay, beta1, beta2, epsilon = 0.3, 0.8, 0.95, 1e-3
  optimizer = optim.adamw(
    lambda step: jnp.asarray(rates, jnp.float32)[step],
    weight_decay=decay,
    beta1=beta1,
    beta2=beta2,
    epsilon=epsilon,
  )
  start = np.array([[1.0, -2.0], [0.5, 0.0]])
  params = {"kernel": jnp.asarray(start), "bias": jnp.asarray(start)}
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  wanted = {name: start.copy() for name in params}
  mean, square = np.zeros((2, 2)), np.zeros((2, 2))
  random = np.random.default_rng(0)
  for step, rate in enumerate(rates):
    # The last entry's gradients are small, so epsilon matters there.
    gradient = random.normal(size=(2, 2)) * [[1, 1], [1, 1e-3]]
    gradients = dict.fromkeys(params, jnp.asarray(gradient))
    updates, state = update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient**2
    root = np.sqrt(square) / np.sqrt(1 - beta2 ** (step + 1)) + epsilon
    wanted["kernel"] *= 1 - rate * decay
    for name in wanted:
      wanted[name] -= rate / (1 - beta1 ** (step + 1)) * mean / root
      np.testing.assert_allclose(params[name], wanted[name], atol=2e-6)


def test_adamw_decays_kernels_alone():
  """Positions and tokens have the same rank as kernels, but other names."""
  optimizer = optim.adamw(0.1, weight_decay=0.5)
  zeros = jax.tree.map(jnp.zeros_like, VIT_LIKE)
  updates, _ = optimizer.update(zeros, optimizer.init(VIT_LIKE), VIT_LIKE)
  decayed = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, x in jax.tree_util.tree_leaves_with_path(updates)
    if np.any(x)
  }
  assert decayed == {
    *("encoder/patch_embed/kernel", "encoder/patch_embed_2/kernel"),
    "predictor/kernel",
  }
  np.testing.assert_allclose(updates["predictor"]["kernel"], -0.05)


def test_adamw_groups_and_frozen_parameters():
  """The description matches the updates; frozen parameters do not decay."""
  adamw = functools.partial(
    optim.Group, weight_decay=0.5, momentum=0.8, beta2=0.95
  )
  schedule = optim.warmup_cosine(0.2, warmup_steps=0, total_steps=10)
  groups = {
    "weights": adamw(schedule, 0.2),
    "biases": adamw(schedule, 0.2),
    "predictor": adamw(0.1, 0.1),
  }
  frozen = ("encoder/patch_embed",)
  assert optim.describe_groups(groups, VIT_LIKE, frozen) == [
    "weights not named kernel: 24 parameters, learning rate 0.2, weight decay"
    " 0, adaptation AdamW (0.8, 0.95)",
    "weights: 12 parameters, learning rate 0.2, weight decay 0.5, adaptation"
    " AdamW (0.8, 0.95)",
    "predictor weights: 8 parameters, learning rate 0.1 (constant), weight"
    " decay 0.5, adaptation AdamW (0.8, 0.95)",
    "frozen: 16 parameters, not trained",
    "biases and norms: 8 parameters, learning rate 0.2, weight decay 0,"
    " adaptation AdamW (0.8, 0.95)",
  ]
  optimizer = optim.make_optimizer(groups, frozen)
  gradients = jax.tree.map(lambda x: 3 * jnp.ones_like(x), VIT_LIKE)
  updates, state = optimizer.update(
    gradients, optimizer.init(VIT_LIKE), VIT_LIKE
  )
  # Adam's first step is the sign of the gradient.
  encoder = updates["encoder"]
  np.testing.assert_allclose(encoder["pos_embed"], -0.2, rtol=1e-5)
  np.testing.assert_allclose(encoder["norm"]["scale"], -0.2, rtol=1e-5)
  kernel = encoder["patch_embed_2"]["kernel"]
  np.testing.assert_allclose(kernel, -0.2 * 1.5, rtol=1e-5)
  kernel = updates["predictor"]["kernel"]
  np.testing.assert_allclose(kernel, -0.1 * 1.5, rtol=1e-5)
  for x in jax.tree.leaves(encoder["patch_embed"]):
    np.testing.assert_array_equal(x, 0)
  moments = sum(jnp.ndim(x) > 0 for x in jax.tree.leaves(state))
  assert moments == 2 * 6, "frozen parameters need no moments"
  with pytest.raises(ValueError, match=r"not both, got \(0.001, 0.95\)"):
    adamw(0.1, 0.1, trust_coefficient=0.001)


def test_predictor_keeps_its_rate():
  params = {"encoder": jnp.ones(3), "predictor": jnp.ones(3)}
  optimizer = optim.make_optimizer(
    {
      "weights": optim.Group(0.3, 0.3, 0.0, 0.9),
      "biases": optim.Group(lambda step: 0.0 * step, 0.0, 0.0, 0.9),
      "predictor": optim.Group(0.5, 0.5, 0.0, 0.9),
    }
  )
  gradients = jax.tree.map(jnp.ones_like, params)
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  np.testing.assert_array_equal(updates["encoder"], np.zeros(3))  # a vector
  np.testing.assert_array_equal(updates["predictor"], -0.5 * np.ones(3))
