"""Checks of a config's parts before training, each refusal one line."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax import config as config_lib
from essl_jax import transformations
from essl_jax.augment import ViewRequest
from essl_jax.data import Source, arrays
from essl_jax.errors import UsageError, told
from essl_jax.texts import first_line
from essl_jax.training import networks as networks_lib
from essl_jax.training import resolution
from essl_jax.training import step as step_lib
from essl_jax.training import views as views_lib


def check(experiment: Any) -> None:
  """Refuses images, views, networks and losses that do not fit together.

  Methods and terms of this package are known to fit and are not looked at, nor
  are encoders that have `takes_any_size`.

  Args:
    experiment: `experiment.Experiment`.

  Raises:
    UsageError: in one line; images without the labels that a part needs, a
      view that images cannot undergo, an encoder whose features are not [N,
      F], a loss that is no scalar, or a part that fails on the views.
  """
  _check_labels(experiment)
  _check_views(experiment)
  networks = experiment.networks
  if not getattr(networks.encoder, "takes_any_size", False):
    _check_encoder(experiment)
  parts = (networks.encoder, *experiment.parts)
  if any(not type(x).__module__.startswith("essl_jax.") for x in parts):
    _check_step(experiment)


def steps_per_epoch(config: config_lib.Config, source: Source) -> int:
  """Steps of an epoch; an incomplete batch is dropped.

  Args:
    config: from `config.parse`.
    source: of its images.

  Returns:
    At least 1.

  Raises:
    UsageError: images that are streamed cannot take several steps as one
      program, or there are fewer than a batch.
  """
  is_held = isinstance(source, arrays.ArraySource)
  if (config.steps_per_dispatch or 1) > 1 and not is_held:
    raise UsageError(
      f"config.steps_per_dispatch {config.steps_per_dispatch} needs images in"
      " device memory, and these are streamed: add"
      " --config.data.on_device=True, or leave it out"
    )
  examples = source.num_examples("train")
  if examples < config.batch_size and config.epochs:
    raise UsageError(
      f"config.batch_size {config.batch_size} is more than the {examples}"
      f" images of {config.data.name} {config.data.train_split}: give a smaller"
      " --config.batch_size"
    )
  return max(examples // config.batch_size, 1)


def _check_labels(experiment: Any) -> None:
  """Looks at the first image of each split whose labels a part needs."""
  config = experiment.config
  evaluations = [
    x
    for x in config_lib.evaluations(config)
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


def _check_views(experiment: Any) -> None:
  """Refuses views that the images cannot undergo."""
  config, parts = experiment.config, experiment.parts
  source = experiment.source
  if config.views.resolution and source.differs_in_size:
    raise UsageError(
      "config.views.resolution needs images that the devices crop, and those of"
      f" {config.data.name} differ in size and are cropped by the host: leave"
      " it empty"
    )
  names = dict.fromkeys(
    ["first", "second", *(x for part in parts for x in part.views)]
  )
  channels = source.image_shape[2]
  for views in _all_views(config):
    for name in names:
      try:
        getattr(views, name).check_channels(channels)
      except ValueError as error:
        raise UsageError(f"config.views.{name}: {error}") from error
      _check_groups(views, name, channels)
    for part in parts:
      _check_transforms(part, views, channels)


def _check_groups(views: Any, name: str, channels: int) -> None:
  """Refuses transformations that a view's images cannot undergo."""
  view = getattr(views, name)
  drawn = [*view.groups]
  if name in ("first", "second") and views.extra is not None:
    drawn.append(views.extra)
  image = jax.ShapeDtypeStruct((1, view.size, view.size, channels), jnp.float32)
  label = jax.ShapeDtypeStruct((1,), jnp.int32)
  for group in drawn:
    with _fits(name, group):
      found = transformations.find_augmentation(group)
      jax.eval_shape(found.apply, image, label)
      if isinstance(found, transformations.TransformationGroup):
        found.check_elements()


def _check_transforms(part: Any, views: Any, channels: int) -> None:
  """Refuses what a part cannot do to the views that it asks for."""
  for request in part.requests(views):
    if request.transform is None:
      continue
    size = request.view.size
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    name = part.views[0] if part.views else request.name
    with _fits(name, getattr(part, "group", part.section)):
      jax.eval_shape(request.transform, images, keys)


@contextlib.contextmanager
def _fits(name: str, group: str) -> Iterator[None]:
  """Refuses a group, which may be anybody's, that fails on a view."""
  try:
    yield
  except Exception as error:
    line = first_line(error, with_type=not isinstance(error, ValueError))
    raise UsageError(
      f"config.views.{name}, {group}: {line}: set config.views.{name}.size to"
      " fit or choose another group"
    ) from error


def _check_encoder(experiment: Any) -> None:
  """Tries the encoder on the views of every stage of the training."""
  encoder = experiment.networks.encoder
  name = experiment.config.encoder.name
  init = nn.init(
    lambda module, x: networks_lib.bind(module, train=False)(x), encoder
  )
  variables = None
  for view, images in _images(experiment):
    side = images.shape[1]
    where = f"config.encoder.name={name}, view {view} of {side} pixels"
    if variables is None:
      make = lambda x: init(jax.random.key(0), x)
      variables = _shape_of(where, make, images)
    run = step_lib.make_encode(encoder)
    features = _shape_of(where, run, variables, images)
    rows = images.shape[0]
    if len(features.shape) != 2 or features.shape[0] != rows:
      raise UsageError(
        f"{where}: the features of {rows} images must be [{rows}, F], and are"
        f" {list(features.shape)}"
      )


def _images(experiment: Any) -> list[tuple[str, jax.ShapeDtypeStruct]]:
  """The images of different shapes that the encoder sees, with their view."""
  channels = experiment.source.image_shape[2]
  found: dict[Any, str] = {}
  for views in _all_views(experiment.config):
    requests = views_lib.union(experiment.parts, views)
    if not found:  # evaluations see the first view, whoever asks for it
      requests = [ViewRequest("first", views.first), *requests]
    blank = jax.eval_shape(
      lambda requests=requests: views_lib.blank(requests, channels)
    )
    found |= {(x.shape, x.dtype): name for name, x in blank.images.items()}
  return [(name, jax.ShapeDtypeStruct(*form)) for form, name in found.items()]


def _all_views(config: config_lib.Config) -> list[config_lib.Views]:
  """The views of every stage, those of full size first: evaluations' own."""
  full = dataclasses.replace(config.views, resolution=())
  stages = resolution.stages(config.views, config.epochs)
  return list(dict.fromkeys([full, *(views for _, views in stages)]))


def _check_step(experiment: Any) -> None:
  """Tries one whole step on one device, in the mode of training."""
  config, requests = experiment.config, experiment.requests
  channels = experiment.source.image_shape[2]
  networks = networks_lib.make_networks(config, experiment.networks.terms)
  problem = dataclasses.replace(experiment.problem(None), networks=networks)
  where = f"a step of config.method={config.method}"
  make = lambda: step_lib.create_state(
    problem, seed=0, requests=requests, channels=channels
  )
  state = _shape_of(where, make)
  count = 2 * problem.micro_batches
  batch = {
    name: jax.ShapeDtypeStruct(
      (count, view.size, view.size, channels), jnp.float32
    )
    for name, view in views_lib.crops(requests).items()
  }
  batch["label"] = jax.ShapeDtypeStruct((count,), jnp.int32)
  prepare = views_lib.make_views(requests, labels=networks.needs_labels)
  step = step_lib.make_train_step(problem, prepare)
  after, _ = _shape_of(where, step, state, batch)
  forms = [
    jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in (state, after)
  ]
  if forms[0] != forms[1]:
    raise UsageError(f"{where} changes the form of the state")


def _shape_of(where: str, function: Callable[..., Any], *args: Any) -> Any:
  """What a function returns, by shapes; its failure in one line."""
  with told(where):  # anybody's code
    return jax.eval_shape(function, *args)
