"""Every group of the study can be learned: thirty steps on 64 real images."""

import os

import numpy as np
import pytest

from essl_jax import transformations
from essl_jax.training import experiment as experiment_lib

STEPS, BATCH = 30, 64
PRODUCTS = ("rotation*horizontal_flip",)


@pytest.fixture(scope="module")
def directory():
  path = os.environ.get("ESSL_JAX_CIFAR10_DIR")
  if not path:
    pytest.skip("ESSL_JAX_CIFAR10_DIR names no prepared TFDS directory")
  return path


@pytest.mark.slow
@pytest.mark.parametrize("group", [*transformations.GROUPS, *PRODUCTS])
def test_prediction_rises_above_chance(tiny_config, directory, group):
  """Crops alone: other augmentations would draw some elements at random."""
  crop = {"flip": 0.0, "jitter_probability": 0.0, "grayscale": 0.0}
  views = {
    name: {"size": 16, "scale": (0.8, 1.0), **crop}
    for name in ("first", "second", "third")
  }
  config = tiny_config(
    "none",
    batch_size=BATCH,
    epochs=STEPS,
    data={
      "name": "cifar10",
      "dir": directory,
      "on_device": True,
      "train_split": f"train[:{BATCH}]",
      "test_split": "test[:64]",
    },
    views=views,
    equivariance={
      "group": group,
      "weight": 1.0,
      "hidden_widths": (64,),
    },
    optimizer={"learning_rate": 0.2, "warmup_epochs": 0},
  )
  experiment = experiment_lib.build(config)
  state, step = experiment.create_state(), experiment.make_step()
  batches, losses, hits = experiment.batches(0), [], []
  for _ in range(STEPS):
    state, metrics = step(state, next(batches))
    hits.append(float(metrics["equivariance_accuracy"]))
    losses.append(float(metrics["loss_equivariance"]))
  count = transformations.find(group).num_classes
  found, chance = np.mean(hits[-10:]), 100 / count
  # Three standard deviations of guessing on ten batches of all elements.
  margin = 3 * 100 * np.sqrt((1 - 1 / count) / count / (10 * BATCH * count))
  assert found > chance + margin, (found, chance)
  assert np.mean(losses[-10:]) < np.log(count)
