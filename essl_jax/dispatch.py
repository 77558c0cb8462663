"""How steps reach the devices: one by one, or many as one program."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from essl_jax import config as config_lib
from essl_jax import experiment as experiment_lib
from essl_jax import parallel, resolution
from essl_jax import step as step_lib

# `(state, left) -> (state, metrics, steps)`: does up to `left` steps. The
# metrics of several steps are [steps], those of one may be scalars.
Advance = Callable[
  [step_lib.TrainState, int], tuple[step_lib.TrainState, Any, int]
]


def make_advance(
  experiment: experiment_lib.Experiment, start_step: int
) -> Advance:
  """What trains an experiment, from a step on.

  Args:
    experiment: from `experiment.build`.
    start_step: of the state that the first call gets.

  Returns:
    A function to be called with the state it returned before. Each number of
    steps is a program of its own: a call with fewer steps left than
    `experiment.steps_per_dispatch` does those. So are the sizes of the views,
    which change only where an epoch begins: `left` may not reach beyond.
  """
  size, done = experiment.steps_per_dispatch, start_step
  if size == 1:
    step = functools.cache(lambda views: _at(experiment, views).make_step())
    batches = experiment.batches(start_step)

    def advance_one(
      state: step_lib.TrainState, left: int
    ) -> tuple[step_lib.TrainState, Any, int]:
      del left
      nonlocal done
      views, done = views_at(experiment, done), done + 1
      return *step(views)(state, next(batches)), 1

    return advance_one

  steps = functools.cache(lambda views: _map_steps(_at(experiment, views)))
  take = _make_take(experiment, start_step)

  def advance(
    state: step_lib.TrainState, left: int
  ) -> tuple[step_lib.TrainState, Any, int]:
    nonlocal done
    count = min(size, left)
    views, done = views_at(experiment, done), done + count
    return *steps(views)(state, *take(count)), count

  return advance


def make_steps(
  experiment: experiment_lib.Experiment, start_step: int
) -> tuple[Callable, Callable[[int], tuple[Any, jax.Array]]]:
  """Several steps as one program, and what it is called with.

  Args:
    experiment: whose images stay in the devices' memory.
    start_step: of the state that the first call gets.

  Returns:
    `(state, images, rows) -> (state, metrics [steps])` with views of full
    size, and a function of a number of steps that returns all images and the
    rows of the next batches.
  """
  return _map_steps(experiment), _make_take(experiment, start_step)


def views_at(
  experiment: experiment_lib.Experiment, step: int
) -> config_lib.Views:
  """The views of the step after `step` others, at their sizes then."""
  config = experiment.config
  epoch = step // experiment.steps_per_epoch
  return resolution.at_epoch(config.views, config.epochs, epoch)


def _at(
  experiment: experiment_lib.Experiment, views: config_lib.Views
) -> experiment_lib.Experiment:
  config = dataclasses.replace(experiment.config, views=views)
  return dataclasses.replace(experiment, config=config)


def _map_steps(experiment: experiment_lib.Experiment) -> Callable:
  return parallel.map_steps(experiment.pure_step(), experiment.mesh)


def _make_take(
  experiment: experiment_lib.Experiment, start_step: int
) -> Callable[[int], tuple[Any, jax.Array]]:
  mesh = experiment.mesh
  images, indices = experiment.held_batches(start_step)
  held = parallel.replicate(images, mesh)

  def take(count: int) -> tuple[Any, jax.Array]:
    rows = np.stack([next(indices) for _ in range(count)])
    return held, parallel.shard_rows(rows, mesh)

  return take


def metrics_by_step(metrics: Any, steps: int) -> list[dict[str, float]]:
  """Reads what `Advance` returned; waits for the devices.

  Args:
    metrics: arrays [steps] or, of one step, scalars, by name.
    steps: how many.

  Returns:
    The figures of each step.
  """
  found = jax.device_get(metrics)
  each = {name: np.reshape(x, (steps,)) for name, x in found.items()}
  return [{name: float(x[i]) for name, x in each.items()} for i in range(steps)]
