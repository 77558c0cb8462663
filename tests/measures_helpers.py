"""Encoders without weights, whose symmetry is known, and their experiments."""

import dataclasses
from unittest import mock

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.equivariance.prediction import Prediction
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import collapse, symmetry, transformation
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib

SIDE = 4
WHOLE = {
  "size": SIDE,
  "scale": (1.0, 1.0),
  "ratio": (1.0, 1.0),
  "flip": 0.0,
  "jitter_probability": 0.0,
  "grayscale": 0.0,
}


class Pixels(nn.Module):
  """Exactly equivariant: a turned image's features are permuted."""

  @nn.compact
  def __call__(self, images, train=False):
    """Features [N, H W C]."""
    return images.reshape(len(images), -1)


class Means(nn.Module):
  """Exactly invariant to whatever moves pixels."""

  @nn.compact
  def __call__(self, images, train=False):
    """Features [N, C]."""
    return images.mean(axis=(1, 2))


class Corners(nn.Module):
  """Names the rotation that brings the first pixel to the brightest corner."""

  @nn.compact
  def __call__(self, features, train=False):
    """Scores [N, 4]."""
    return features.reshape(-1, SIDE**2, 3)[:, jnp.array([0, 12, 15, 3]), 0]


class CornerPrediction(Prediction):
  """Which rotation, as `Corners` names it."""

  def make_heads(self, **common):
    """A head without parameters."""
    return {"transformation_head": Corners()}


def images(number, seed):
  """Noise, the first row brighter: they have an upright position."""
  random = np.random.default_rng(seed)
  noise = random.integers(0, 160, (number, SIDE, SIDE, 3))
  noise[:, 0] += 90
  return noise.astype(np.uint8)


def make(config, encoder, devices, test_images):
  """An experiment of an encoder without weights, and its state.

  Args:
    config: of it.
    encoder: a module.
    devices: to run on.
    test_images: uint8 [N, SIDE, SIDE, 3].
  """
  experiment = experiment_lib.build(
    config,
    source=ArraySource(
      images(300, 0),
      np.arange(300) % 3,
      test_images,
      np.arange(len(test_images)) % 3,
    ),
    mesh=parallel.make_mesh(devices),
  )
  networks = experiment.networks.clone(
    encoder=encoder, terms=(CornerPrediction(),)
  )
  nothing = {"encoder": {}, "transformation_head": {}}
  state = step_lib.TrainState(
    step=jnp.zeros((), jnp.int32),
    seed=jnp.zeros((), jnp.uint32),
    params=nothing,
    batch_stats=nothing,
    opt_state=(),
  )
  return dataclasses.replace(experiment, networks=networks), state


def measure(config, devices=None):
  """All measures of `Pixels` on 61 test images, over all devices if absent."""
  experiment, state = make(config, Pixels(), devices, images(61, 1))
  bench = bench_lib.make(experiment)
  return {
    "collapse": collapse.Collapse().run(bench, state),
    "symmetry": symmetry.Symmetry().run(bench, state),
    "transformation": recognise(bench, state),
  }


def recognise(bench, state):
  """Which rotations are named, of 8 images a device at once."""
  with mock.patch.object(transformation, "BATCH", 32):
    return transformation.run(bench, state, 0)
