"""Opens the data and the network of a finished run, read-only."""

import dataclasses
from typing import Any

import jax

from essl_jax import config as config_lib
from essl_jax.config.schema import find_source
from essl_jax.data import prepared
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.report.runs import Run
from essl_jax.storage import checkpoint, weights
from essl_jax.training import experiment as experiment_lib


def build(run: Run) -> experiment_lib.Experiment:
  """Builds the experiment of a run's last evaluation, on one device.

  Args:
    run: the run whose config to use.

  Returns:
    The experiment. Missing data are neither generated nor downloaded.

  Raises:
    UsageError: the data cannot be opened, or the config is of another version.
  """
  config = _read_only(config_lib.parse(run.config))
  name = config.data.name
  if find_source(name) is None and not name.endswith(".npz"):
    prepared.open_builder(name, config.data.dir, prepare=False)
  mesh = parallel.make_mesh(jax.local_devices()[:1])
  return experiment_lib.build(config, mesh=mesh)


def _read_only(config: config_lib.Config) -> config_lib.Config:
  """The config without settings that generate data or load all into memory."""
  changed: dict[str, Any] = {"on_device": False}
  defaults = {x.name: x.default for x in dataclasses.fields(config.data)}
  if "generate" in defaults:
    changed["generate"] = defaults["generate"]
  return dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, **changed),
    steps_per_dispatch=None,  # images on disk allow only one
  )


def restore(
  run: Run, experiment: experiment_lib.Experiment
) -> tuple[dict[str, Any], int]:
  """Restores the encoder that was evaluated.

  Args:
    run: the run whose workdir to read; nothing in it changes.
    experiment: from `build`.

  Returns:
    The encoder's variables, and the step of the checkpoint.

  Raises:
    UsageError: the encoder was not pre-trained, or no checkpoint can be read.
  """
  config, step = experiment.config, 0
  if checkpoint.exists(run.path):
    best = config_lib.ranking_figure(config)
    with checkpoint.Checkpoints(
      run.path, best_metric=best, read_only=True
    ) as checkpoints:
      tree = checkpoints.restore_arrays(config.evaluate_checkpoint)
      step = checkpoints.restored or 0
  elif config.init_from:
    tree, _ = weights.load(config.init_from)
  elif not config.epochs:
    raise UsageError("the run has no pre-trained encoder (config.epochs is 0)")
  else:
    raise UsageError(f"{run.path} holds no checkpoint")
  network = config_lib.evaluated_network(config)
  tree = tree.get(network) or tree  # a file of weights holds only one
  kinds = [x for x in ("params", "batch_stats") if "encoder" in tree.get(x, {})]
  return {x: tree[x]["encoder"] for x in kinds}, step
