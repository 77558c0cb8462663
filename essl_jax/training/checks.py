"""Checks an experiment before anything is computed."""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from essl_jax import augment
from essl_jax import config as config_lib
from essl_jax.augment import ViewRequest
from essl_jax.data import Source, arrays
from essl_jax.data.checks import check_there
from essl_jax.devices import memory, parallel
from essl_jax.errors import UsageError, told
from essl_jax.training import applying, norms, view_checks
from essl_jax.training import networks as networks_lib
from essl_jax.training import step as step_lib
from essl_jax.training import views as views_lib

_MOST_STEPS = 2**31 - 1  # the state's counter is int32


def check_batch(config: config_lib.Config, mesh: Mesh) -> None:
  """Refuses batches that the devices or the terms cannot handle.

  It needs no data, so a mistake shows before any are read.

  Args:
    config: from `config.parse`; all its parts exist.
    mesh: of the devices to run on.

  Raises:
    UsageError: in one line.
  """
  parallel.check_batch_size(config.batch_size, mesh, config.micro_batches)
  terms = networks_lib.active_terms(config)
  parts = (config_lib.method(config), *terms)
  view_checks.check_sharing(config, parts, mesh.size)


def check(experiment: Any) -> None:
  """Refuses images, views, networks and losses that do not fit together.

  The package's own methods and terms are known to fit and are not tried, nor
  are encoders that set `takes_any_size`.

  Args:
    experiment: `experiment.Experiment`.

  Raises:
    UsageError: in one line. The images lack the labels that a part needs, or
      have one class; a view cannot be made from the images; a batch norm would
      see a single value; an encoder's features are not [N, F]; a loss or a
      metric is not a scalar; a group's labels do not tell its elements apart;
      or a part fails on the views.
  """
  _check_labels(experiment)
  view_checks.check(experiment)
  _check_norms(experiment)
  networks = experiment.networks
  if not getattr(networks.encoder, "takes_any_size", False):
    _check_encoder(experiment)
  _check_features(experiment)
  parts = (networks.encoder, *experiment.parts)
  if any(not type(x).__module__.startswith("essl_jax.") for x in parts):
    _check_step(experiment)


def steps_per_epoch(config: config_lib.Config, source: Source) -> int:
  """Counts the steps of an epoch; an incomplete batch is dropped.

  Args:
    config: from `config.parse`.
    source: of its images.

  Returns:
    At least 1.

  Raises:
    UsageError: several steps as one program are asked for and the images are
      streamed; there are fewer images than a batch; or there are too many steps
      to count.
  """
  is_held = isinstance(source, arrays.ArraySource)
  if (config.steps_per_dispatch or 1) > 1 and not is_held:
    raise UsageError(
      f"config.steps_per_dispatch {config.steps_per_dispatch} needs images in"
      " device memory, and these are streamed: add"
      " --config.data.on_device=True, or leave it out"
    )
  examples = source.num_examples("train")
  if config.epochs:
    images = f"images of {config.data.name} {config.data.train_split}"
    check_there("batch_size", config.batch_size, examples, images)
  steps = max(examples // config.batch_size, 1)
  if config.epochs * steps > _MOST_STEPS:
    raise UsageError(
      f"config.epochs {config.epochs} of {steps} steps exceed the {_MOST_STEPS}"
      " steps that a run can count: give fewer"
    )
  return steps


def _check_labels(experiment: Any) -> None:
  """Looks at the first image of each split whose labels a part needs."""
  config = experiment.config
  evaluations = [
    x
    for x in experiment.evaluations
    if x.needs_labels and config.mode in x.modes
  ]
  terms = [x for x in experiment.networks.terms if x.needs_labels]
  for parts, source, split, field in (
    (terms, experiment.source, "train", "train_split"),
    (evaluations, experiment.labelled, "train", "labelled_split"),
    (evaluations, experiment.labelled, "test", "test_split"),
  ):
    batches = source.evaluation_batches(split, 1) if parts else ()
    batch = next(iter(batches), None)
    if batch is not None and batch["label"].min() < 0:
      raise UsageError(
        f"{type(parts[0]).__name__} needs labels, and the {split} images of"
        f" {config.data.name} have none: leave it out, or set"
        f" config.data.{field} to a labelled split"
      )
    if parts and source.num_classes < 2:
      raise UsageError(
        f"{type(parts[0]).__name__} needs images of two classes or more, and"
        f" those of {config.data.name} have {source.num_classes}: leave it out,"
        " or give images of more classes"
      )


def _check_encoder(experiment: Any) -> None:
  """Tries the encoder on the views of every training stage."""
  encoder = experiment.networks.encoder
  name = experiment.config.encoder.name
  variables = None
  for view, images in _images(experiment):
    side = images.shape[1]
    where = f"config.encoder.name={name}, view {view} of {side} pixels"
    if variables is None:
      variables = _shape_of(where, _make_init(encoder), images)
    run = step_lib.make_encode(encoder)
    features = _shape_of(where, run, variables, images)
    rows = images.shape[0]
    if len(features.shape) != 2 or features.shape[0] != rows:
      raise UsageError(
        f"{where}: the features of {rows} images must be [{rows}, F], and are"
        f" {list(features.shape)}"
      )


def _check_features(experiment: Any) -> None:
  """Tries the features that evaluations read from the encoder."""
  encoder, config = experiment.networks.encoder, experiment.config
  if config.evaluate_features == applying.OUTPUT:
    return
  applying.read(encoder, config.evaluate_features)
  size, channels = config.views.first.size, experiment.source.image_shape[2]
  images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
  where = "config.evaluate_features"
  variables = _shape_of(where, _make_init(encoder), images)
  _shape_of(where, experiment.encode, variables, images)


def _make_init(encoder: nn.Module) -> Callable[[jax.Array], Any]:
  """A function from images to an encoder's initial variables."""
  init = nn.init(
    lambda module, x: applying.bind(module, train=False)(x), encoder
  )
  return lambda x: init(jax.random.key(0), x)


def _images(experiment: Any) -> list[tuple[str, jax.ShapeDtypeStruct]]:
  """Each image shape that the encoder sees, with one view that has it."""
  channels = experiment.source.image_shape[2]
  found: dict[Any, str] = {}
  for views in view_checks.all_views(experiment.config):
    requests = views_lib.union(experiment.parts, views)
    if not found:  # evaluations see the first view, even if no part does
      requests = [ViewRequest("first", views.first), *requests]
    blank = jax.eval_shape(
      lambda requests=requests: views_lib.blank(requests, channels)
    )
    found |= {(x.shape, x.dtype): name for name, x in blank.images.items()}
  return [(name, jax.ShapeDtypeStruct(*form)) for form, name in found.items()]


def _check_step(experiment: Any) -> None:
  """Tries one whole training step on one device."""
  config, requests = experiment.config, experiment.requests
  channels = experiment.source.image_shape[2]
  networks = networks_lib.make_networks(config, experiment.networks.terms)
  problem = dataclasses.replace(experiment.problem(None), networks=networks)
  where = (
    f"a step of config.method={config.method} with config.encoder.name="
    f"{config.encoder.name}"
  )
  make = lambda: step_lib.create_state(
    problem, seed=0, requests=requests, channels=channels
  )
  state = _shape_of(where, make)
  batch = _batch(requests, config.batch_size, channels)
  prepare = views_lib.make_views(requests, labels=networks.needs_labels)
  step = step_lib.make_train_step(problem, prepare)
  after, metrics = _shape_of(where, step, state, batch)
  for name, shape in jax.tree.map(lambda x: x.shape, metrics).items():
    if shape != ():
      raise UsageError(
        f"{where}: the metric {name} must be one number, and has shape {shape}"
      )
  forms = [
    jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in (state, after)
  ]
  if forms[0] != forms[1]:
    raise UsageError(f"{where} changes the shapes or dtypes of the state")


def _check_norms(experiment: Any) -> None:
  """Tries every stage's step where a device sees one image at a time."""
  config, mesh = experiment.config, experiment.mesh
  trains = config.mode == "train" and config.epochs > 0
  if not trains or norms.are_fed(
    config.batch_size // config.micro_batches, mesh
  ):
    return
  channels = experiment.source.image_shape[2]
  for views in view_checks.all_views(config):
    requests = views_lib.union(experiment.parts, views)
    problem = experiment.problem()
    make = step_lib.make_create_state(
      problem, requests=requests, channels=channels
    )
    labels = experiment.networks.needs_labels
    prepare = views_lib.make_views(requests, parallel.AXIS, labels=labels)
    step = parallel.map_step(step_lib.make_train_step(problem, prepare), mesh)
    state = jax.eval_shape(make, jax.ShapeDtypeStruct((), jnp.uint32))
    batch = _batch(requests, config.batch_size, channels)
    with told("the first step"):
      jax.eval_shape(step, state, batch)


def check_memory(experiment: Any) -> None:
  """Refuses networks too large for a device, whatever the batch.

  Args:
    experiment: `experiment.Experiment`.

  Raises:
    UsageError: the state alone takes more memory than a device has.
  """
  leaves = jax.tree.leaves(experiment.state_shapes())
  needed = sum(x.size * x.dtype.itemsize for x in leaves)
  there = memory.of_device(experiment.mesh.devices.flat[0])
  if there is not None and needed > there:
    raise UsageError(
      f"the networks with the optimiser's state take {needed / 1e9:,.1f} GB,"
      f" and a device has {there / 1e9:,.1f} GB: give smaller widths of"
      " config.encoder and the heads"
    )


def _batch(requests: Any, count: int, channels: int) -> dict[str, Any]:
  """The shapes of a batch of crops and labels."""
  batch = {
    name: jax.ShapeDtypeStruct(
      (count, view.size, view.size, channels), jnp.float32
    )
    for name, view in views_lib.crops(requests).items()
  }
  windows = [augment.window_name(name) for name in batch]
  form = jax.ShapeDtypeStruct((count, 6), jnp.int32)
  batch |= dict.fromkeys(windows, form)
  return batch | {"label": jax.ShapeDtypeStruct((count,), jnp.int32)}


def _shape_of(where: str, function: Callable[..., Any], *args: Any) -> Any:
  """The shapes of a function's result; a failure becomes one line."""
  with told(where):  # may be a user's own code
    return jax.eval_shape(function, *args)
