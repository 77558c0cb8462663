"""Steps of small networks, for the tests of the step and of devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import config as config_lib
from essl_jax import optim
from essl_jax.devices import parallel
from essl_jax.training import networks as networks_lib
from essl_jax.training import online
from essl_jax.training import problem as problem_lib
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


def sgd_groups(schedule, constant_rate=None):
  """The groups of a CIFAR-10 recipe; a predictor's rate is constant."""
  group = functools.partial(
    optim.Group, peak=0.01, weight_decay=5e-4, momentum=0.9
  )
  groups = {"weights": group(schedule), "biases": group(schedule)}
  if constant_rate is not None:
    groups["predictor"] = group(constant_rate)
  return groups


def make_parts(config):
  """The active terms, the online classifier among them."""
  terms = networks_lib.active_terms(config)
  if config.online_classifier:
    terms = [online.OnlineClassifier(num_classes=CLASSES), *terms]
  return terms


def make_requests(config):
  """The views of a config."""
  parts = (config_lib.method(config), *make_parts(config))
  return views_lib.union(parts, config.views)


def make_problem(config, axis_name=None, total_steps=60):
  """What the step of a config trains."""
  schedule = optim.warmup_cosine(0.01, warmup_steps=1, total_steps=60)
  rate = 0.01 if config.method == "simsiam" else None
  return problem_lib.Problem(
    networks_lib.make_networks(config, make_parts(config), axis_name=axis_name),
    optim.make_optimizer(sgd_groups(schedule, rate)),
    schedule,
    total_steps=total_steps,
    micro_batches=config.micro_batches,
    axis_name=axis_name,
  )


@functools.cache
def _initial_state(config):
  with jax.enable_x64(False):
    return step_lib.create_state(
      make_problem(config), seed=config.seed, requests=make_requests(config)
    )


def make_state(config):
  """The state at step 0: a copy that may be donated, compiled only once."""
  return jax.tree.map(jnp.array, _initial_state(config))


def make_views(config, axis_name=None):
  """The function that draws the views of a batch."""
  labels = config.online_classifier
  return views_lib.make_views(make_requests(config), axis_name, labels=labels)


def make_step(config, axis_name, prepare=None):
  """The step of one device's share, not yet compiled."""
  prepare = prepare or make_views(config, axis_name)
  return step_lib.make_train_step(make_problem(config, axis_name), prepare)


def _double(tree):
  to_double = lambda x: x.astype(jnp.float64)
  is_float = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
  return jax.tree.map(lambda x: to_double(x) if is_float(x) else x, tree)


def exact_parts(config, prepare=None):
  """State and per-device step in float64, on given views.

  Unless `prepare` makes other views of a batch, it is of `view_batches`.

  In float32 a pre-activation within rounding of zero can fall on either side
  of a ReLU, and the gradients of n devices then differ from one's in the
  fourth digit. Float64 leaves what is to be tested: the semantics.
  """
  state = make_state(config)
  config = dataclasses.replace(config, precision="float64")
  prepare = prepare or (lambda state, batch: to_views(batch))
  step = make_step(config, parallel.AXIS, prepare)
  return _double(state), step


def to_views(batch):
  """Views out of arrays by name, as `view_batches` yields them."""
  names = ("first", "second", "transformed")
  images = {name: batch[name] for name in names if name in batch}
  if "small" in batch:  # all draws of an image are of one device
    draws = jnp.moveaxis(batch["small"], 1, 0)
    images["small"] = draws.reshape(-1, *draws.shape[2:])
  targets = {}
  if "labels" in batch:
    targets["transformed"] = {"labels": batch["labels"]}
  if "classes" in batch:
    targets["label"] = batch["classes"]
  return views_lib.Views(images, targets)


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
    if small := getattr(config, "small_views", 0):
      views["small"] = random.standard_normal((16, small, 8, 8, 3))
    if config.online_classifier:
      views["classes"] = batch()["label"]
    yield views
