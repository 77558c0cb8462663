"""Opens the data and the network of a finished run, only to look at them."""

import dataclasses
from typing import Any

import jax

from essl_jax import config as config_lib
from essl_jax import config_data, data
from essl_jax.data import prepared, subsets
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.photonics.source import CellSource
from essl_jax.report.runs import Run
from essl_jax.storage import checkpoint, weights
from essl_jax.training import experiment as experiment_lib


def build(run: Run) -> experiment_lib.Experiment:
  """The experiment as its last evaluation saw it, on one device.

  Args:
    run: whose config.

  Returns:
    Its parts; data that are not there are neither made nor downloaded.

  Raises:
    UsageError: the data cannot be had, or the config is of another version.
  """
  config = config_lib.parse(run.config)
  config = dataclasses.replace(
    config,
    data=dataclasses.replace(
      config.data, on_device=False, generate=config_data.Generate()
    ),
  )
  mesh = parallel.make_mesh(jax.local_devices()[:1])
  return experiment_lib.build(config, _open(config.data), mesh)


def _open(settings: config_lib.Data) -> data.Source:
  is_file = settings.name.endswith(".npz")
  if not is_file and settings.name not in ("digits", "folder", "photonics"):
    prepared.check_prepared(settings.name, settings.dir)
  return data.make_source(
    settings.name,
    directory=settings.dir,
    train_split=settings.train_split,
    test_split=settings.test_split,
    image_size=settings.image_size,
    resize_size=settings.resize_size,
  )


def test_images(
  experiment: experiment_lib.Experiment, number: int
) -> data.Source:
  """The source with test images of all classes.

  Args:
    experiment: from `build`.
    number: how many test images at most; unit cells are all there.

  Returns:
    A source.
  """
  if isinstance(experiment.source, CellSource):
    return experiment.source
  return subsets.sample(experiment.labelled, number, "test")


def restore(
  run: Run, experiment: experiment_lib.Experiment
) -> tuple[dict[str, Any], int]:
  """The encoder that was evaluated.

  Args:
    run: whose workdir; nothing in it changes.
    experiment: from `build`.

  Returns:
    The encoder's variables, and the step of the checkpoint.

  Raises:
    UsageError: the encoder was not pre-trained, or no checkpoint can be read.
  """
  config, step = experiment.config, 0
  if checkpoint.exists(run.path):
    with checkpoint.Checkpoints(run.path, read_only=True) as checkpoints:
      step = checkpoints.choose(config.evaluate_checkpoint)
      tree = checkpoints.restore_arrays(step)
  elif config.init_from:
    tree, _ = weights.load(config.init_from)
  elif not config.epochs:
    raise UsageError("the run has no pre-trained encoder (config.epochs is 0)")
  else:
    raise UsageError(f"{run.path} holds no checkpoint")
  return {x: tree[x]["encoder"] for x in ("params", "batch_stats")}, step
