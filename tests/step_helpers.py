"""Steps of small networks, for the tests of the step and of devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import methods, optim
from essl_jax.devices import parallel
from essl_jax.models import resnet
from essl_jax.training import networks as networks_lib
from essl_jax.training import step as step_lib
from essl_jax.training import views as views_lib

CLASSES = 4


def batch(n=16):
  """Images and labels, as a source yields them."""
  labels = np.arange(n, dtype=np.int32) % CLASSES
  return {"image": images(n), "label": labels}


def images(n=16):
  """Coarse random patterns: unlike noise, they differ in their features."""
  coarse = np.random.default_rng(3).integers(0, 250, (n, 4, 4, 3), np.uint8)
  return coarse.repeat(4, axis=1).repeat(4, axis=2)


def _make_optimizer():
  schedule = optim.warmup_cosine(0.01, warmup_steps=1, total_steps=60)
  return schedule, optim.make_optimizer(sgd_groups(schedule, 0.01))


def sgd_groups(schedule, predictor_rate):
  """The groups of a CIFAR-10 recipe."""
  group = functools.partial(
    optim.Group, peak=predictor_rate, weight_decay=5e-4, momentum=0.9
  )
  return {
    "weights": group(schedule),
    "biases": group(schedule),
    "predictor": group(predictor_rate),
  }


@functools.cache
def _initial_state(config, stages):
  del stages  # of which ResNets are made; see `conftest.two_blocks`
  with jax.enable_x64(False):
    return step_lib.create_state(
      networks_lib.make_networks(config, num_classes=CLASSES),
      _make_optimizer()[1],
      seed=config.seed,
      image_shape=(16, 16, 3),
    )


def make_state(config):
  """The state at step 0: a copy that may be donated, compiled only once."""
  return jax.tree.map(
    jnp.array, _initial_state(config, resnet.STAGES[config.model.depth])
  )


def make_step(config, axis_name, prepare=None):
  """The step of one device's share, not yet compiled."""
  schedule, optimizer = _make_optimizer()
  return step_lib.make_train_step(
    networks_lib.make_networks(
      config, num_classes=CLASSES, axis_name=axis_name
    ),
    methods.make_loss(config, axis_name),
    optimizer,
    schedule,
    prepare or views_lib.make_views(config, axis_name),
    equivariance_weight=config.equivariance.weight,
    prediction=networks_lib.make_prediction(config),
    micro_batches=config.micro_batches,
    axis_name=axis_name,
  )


def _double(tree):
  to_double = lambda x: x.astype(jnp.float64)
  is_float = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
  return jax.tree.map(lambda x: to_double(x) if is_float(x) else x, tree)


def exact_parts(config):
  """State and per-device step in float64, on given views.

  In float32 a pre-activation within rounding of zero can fall on either side
  of a ReLU, and the gradients of n devices then differ from one's in the
  fourth digit. Float64 leaves what is to be tested: the semantics.
  """
  state = make_state(config)
  config = dataclasses.replace(config, precision="float64")
  prepare = lambda state, batch: views_lib.Views(**batch)
  step = make_step(config, parallel.AXIS, prepare)
  return _double(state), step


def view_batches(config):
  """Three batches of float64 views and labels, 16 images each."""
  for i in range(3):
    random = np.random.default_rng(i)
    views = {
      "first": random.standard_normal((16, 16, 16, 3)),
      "second": random.standard_normal((16, 16, 16, 3)),
      "transformed": random.standard_normal((64, 8, 8, 3)),
      "labels": np.arange(64, dtype=np.int32) % 4,
    }
    if config.online_classifier:
      views["classes"] = batch()["label"]
    yield views
