"""Every term learns with every kind of method: thirty steps on real images."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from term_helpers import SMALL

from essl_jax.devices import parallel
from essl_jax.training import experiment as experiment_lib

STEPS, BATCH = 30, 64
VIT = {
  "name": "vit",
  "image_size": 16,
  "patch": 4,
  "width": 32,
  "depth": 2,
  "heads": 2,
}
# What outweighs the method or is outweighed by it would say little.
WEIGHTS = {"care": {"weight": 1.0}, "sie": {"weight": 0.1}}
# Encoder and learning rate of each method.
METHODS = {
  "simclr": ({}, 0.1),
  "byol": ({}, 0.1),
  "vicreg": ({}, 0.01),
  "moco_v3": (VIT, 0.05),
}


@pytest.fixture(scope="module")
def directory():
  path = os.environ.get("ESSL_JAX_CIFAR10_DIR")
  if not path:
    pytest.skip("ESSL_JAX_CIFAR10_DIR names no prepared TFDS directory")
  return path


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SMALL)
def test_a_term_learns(tiny_config, directory, method, name):
  """Its loss on a held-out batch falls."""
  encoder, rate = METHODS[method]
  config = tiny_config(
    method,
    terms=(name,),
    batch_size=BATCH,
    epochs=STEPS // 2,
    data={
      "name": "cifar10",
      "dir": directory,
      "on_device": True,
      "train_split": f"train[:{2 * BATCH}]",
      "test_split": f"test[:{BATCH}]",
    },
    optimizer={"learning_rate": rate, "warmup_epochs": 0},
    **{name: SMALL[name] | WEIGHTS.get(name, {})},
    **({"encoder": encoder} if encoder else {}),
  )
  mesh = parallel.make_mesh(jax.devices()[:1])
  experiment = experiment_lib.build(config, mesh=mesh)
  state, step = experiment.create_state(), experiment.make_step()
  (test,) = experiment.source.evaluation_batches("test", BATCH)
  fixed = parallel.shard({"image": test["image"]}, mesh)

  def measure(state):
    """With the same draws each time, of a copy: the step donates its state."""
    copy = jax.tree.map(jnp.copy, state)
    _, metrics = step(copy.replace(step=0 * copy.step), fixed)
    return float(metrics[f"loss_{name}"])

  before, batches = measure(state), experiment.batches(0)
  for _ in range(STEPS):
    state, metrics = step(state, {"image": next(batches)["image"]})
  assert np.isfinite(metrics["loss"])
  after = measure(state)
  print(method, name, before, after)
  assert after < before, (before, after)
