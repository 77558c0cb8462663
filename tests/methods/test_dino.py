"""DINO: teacher temperature, frozen prototypes, centre and views."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_helpers

from essl_jax import losses, optim
from essl_jax.methods.dino import DINO, Prototypes
from essl_jax.training import parameter_groups
from essl_jax.training import step as step_lib

BATCH = {"image": step_helpers.images()}


def test_teacher_temperatures(golden):
  """Compares 20 epochs with 5 of warm-up, and warm-ups of 0 and 1 epochs."""
  wanted = golden("modern_losses")["dino_teacher_temperatures"]
  method = DINO(teacher_warmup_epochs=5)
  found = [method.teacher_temperature_of(epoch) for epoch in range(20)]
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  for warmup, first in ((0, 0.07), (1, 0.04)):
    method = DINO(teacher_warmup_epochs=warmup)
    found = [method.teacher_temperature_of(epoch) for epoch in range(3)]
    np.testing.assert_allclose(found, [first, 0.07, 0.07], rtol=1e-6)


def test_scores_are_cosines():
  """The lengths of embeddings and prototypes have no effect."""
  random = np.random.default_rng(0)
  x, kernel = random.standard_normal((4, 8)), random.standard_normal((8, 6))
  x[0] = 0
  run = jax.jit(
    lambda x, kernel: Prototypes(6).apply({"params": {"kernel": kernel}}, x)
  )
  found = run(x.astype(np.float32), kernel.astype(np.float32))
  unit = kernel / np.linalg.norm(kernel, axis=0)
  wanted = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) @ unit
  np.testing.assert_allclose(found, wanted, atol=1e-6)
  longer = run(3 * x.astype(np.float32), 7 * kernel.astype(np.float32))
  np.testing.assert_allclose(longer, found, atol=1e-6)


OPTIMIZERS = {
  "sgd": {"name": "sgd"},
  "lars": {"name": "lars", "trust_coefficient": 0.02},
  "adamw": {"name": "adamw", "weight_decay": 0.1},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_frozen_head_begins_as_new_one_epoch_later(tiny_config, name):
  """Before, no gradient, decay or momentum moves it; the rate is scheduled."""
  config = tiny_config("dino", optimizer=OPTIMIZERS[name])
  groups = parameter_groups.make(config, steps_per_epoch=3)
  assert groups["prototypes"].first_step == 3
  assert "frozen for 3 steps" in groups["prototypes"].describe(True)
  never = dataclasses.replace(groups["prototypes"], first_step=0)
  random = np.random.default_rng(0)
  params = {"kernel": random.standard_normal((4, 6)).astype(np.float32)}
  gradients = [
    {"kernel": random.standard_normal((4, 6)).astype(np.float32)}
    for _ in range(6)
  ]
  optimizer, own = groups["prototypes"].transformation, params
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for k, gradient in enumerate(gradients):
    change, state = update(gradient, state, own)
    own = jax.tree.map(jnp.add, own, change)
    if k < 3:
      np.testing.assert_array_equal(own["kernel"], params["kernel"])
  later = lambda count: never.learning_rate(count + 3)
  optimizer = dataclasses.replace(never, learning_rate=later).transformation
  state, wanted, update = optimizer.init(params), params, optimizer.update
  for gradient in gradients[3:]:
    change, state = jax.jit(update)(gradient, state, wanted)
    wanted = jax.tree.map(jnp.add, wanted, change)
  np.testing.assert_allclose(own["kernel"], wanted["kernel"], rtol=1e-6)
  assert np.all(own["kernel"] != params["kernel"])


def _problem(config, steps_per_epoch):
  groups = parameter_groups.make(config, steps_per_epoch)
  return dataclasses.replace(
    step_helpers.make_problem(config),
    optimizer=optim.make_optimizer(groups),
    steps_per_epoch=steps_per_epoch,
  )


@pytest.fixture(scope="module")
def steps(tiny_config):
  """Returns the states around each of four steps, with two steps per epoch."""
  config = tiny_config("dino", small_views=2, **CHEAP)
  problem = _problem(config, steps_per_epoch=2)
  state = step_lib.create_state(
    problem, seed=0, requests=step_helpers.make_requests(config)
  )
  prepare = step_helpers.make_views(config)
  step = jax.jit(step_lib.make_train_step(problem, prepare))
  found = [(state, None)]
  for _ in range(4):
    found.append(step(found[-1][0], BATCH))
  return config, problem, jax.device_get(found)


# Colour operations take long to compile.
CROP = {"size": 16, "jitter_probability": 0.0, "grayscale": 0.0}
CHEAP = {
  "views": {
    **dict.fromkeys(("first", "second"), CROP),
    "small": CROP | {"size": 8, "scale": (0.05, 0.4)},
  },
  "encoder": {"blocks": (1,)},
  "equivariance": {"weight": 0.0},
  "optimizer": {"warmup_epochs": 0},
  "first_teacher_temperature": 0.04,
  "teacher_warmup_epochs": 2,
}


def test_prototypes_are_frozen_for_an_epoch(steps):
  """The projector is not frozen; the target's prototypes follow."""
  _, _, found = steps
  kernels = [x.params["prototypes"]["kernel"] for x, _ in found]
  for kernel in kernels[1:3]:
    np.testing.assert_array_equal(kernel, kernels[0])
  assert np.any(kernels[3] != kernels[2])
  projectors = [x.params["projector"]["dense_0"]["kernel"] for x, _ in found]
  assert np.any(projectors[1] != projectors[0])
  targets = [x.target["params"]["prototypes"]["kernel"] for x, _ in found]
  np.testing.assert_allclose(targets[2], kernels[0], rtol=1e-6)
  assert np.any(np.abs(targets[3] - kernels[0]) > 1e-6)


def test_loss_and_centre_are_of_the_teacher_before_the_step(steps):
  """Recomputes the first step of epoch 2 from the networks' outputs."""
  config, problem, found = steps
  before, (after, metrics) = found[2][0], found[3]
  forward = jax.jit(
    lambda state: problem.forward(state)(
      state.params,
      (state.batch_stats, state.target["batch_stats"]),
      (step_helpers.make_views(config)(state, BATCH), problem.places(16)),
    )
  )
  ((own, *_), target), _ = forward(before)
  assert own["scores"].shape == (4 * 16, 24)  # two full and two small views
  assert target["scores"].shape == (2 * 16, 24)
  assert len(own["projections"]) == 4 and len(target["projections"]) == 2
  wanted = losses.dino(
    own["scores"],
    target["scores"],
    center=before.extra["center"],
    student_temperature=0.1,
    teacher_temperature=0.07,  # in the second of two warm-up epochs
  )
  np.testing.assert_allclose(metrics["loss_ssl"], wanted, rtol=1e-4)
  center = 0.9 * before.extra["center"]
  center += 0.1 * np.mean(np.asarray(target["scores"]), 0, keepdims=True)
  np.testing.assert_allclose(
    after.extra["center"], center, rtol=1e-4, atol=1e-6
  )
  assert np.any(after.extra["center"] != 0)


def test_bfloat16_keeps_scores_exact_enough(tiny_config):
  """Cosines are summed in float32, as a temperature of 0.04 requires."""
  values = {}
  for precision in ("float32", "bfloat16"):
    config = tiny_config("dino", precision=precision, **CHEAP)
    step = jax.jit(step_helpers.make_step(config, None))
    state, metrics = step(step_helpers.make_state(config), BATCH)
    assert state.extra["center"].dtype == jnp.float32
    values[precision] = float(metrics["loss_ssl"])
  assert values["float32"] != values["bfloat16"]
  np.testing.assert_allclose(*values.values(), rtol=0.05)
