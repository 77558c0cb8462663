"""Dispatches steps to the devices: one by one, or many as one program."""

import bisect
from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import numpy as np

from essl_jax import config as config_lib
from essl_jax.devices import parallel
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import resolution
from essl_jax.training import step as step_lib

# `(state, left) -> (state, metrics, steps, is_new)`: does up to `left` steps;
# `is_new` says that their program had to be compiled. Metrics are [steps];
# those of a single step may be scalars.
Advance = Callable[
  [step_lib.TrainState, int], tuple[step_lib.TrainState, Any, int, bool]
]


def make_advance(
  experiment: experiment_lib.Experiment, start_step: int
) -> Advance:
  """Makes the function that trains an experiment from a given step.

  Args:
    experiment: from `experiment.build`.
    start_step: step of the state that the first call gets.

  Returns:
    A function to call with the state that it returned before. It does
    `experiment.steps_per_dispatch` steps, or `left` if that is fewer. Each
    number of steps and each set of view sizes is compiled separately. Sizes
    change only where an epoch begins, so `left` must end with the epoch.
  """
  size, per_epoch = experiment.steps_per_dispatch, experiment.steps_per_epoch
  config = experiment.config
  stages = resolution.stages(config.views, config.epochs)
  begins = [epoch for epoch, _ in stages]
  if size == 1:
    batches = experiment.batches(start_step)
    make: Callable = experiment_lib.Experiment.make_step
    take: Callable = lambda _: (next(batches),)
  else:
    make, take = map_steps, make_take(experiment, start_step)
  programs, done, compiled = experiment.programs, start_step, set()

  def advance(
    state: step_lib.TrainState, left: int
  ) -> tuple[step_lib.TrainState, Any, int, bool]:
    nonlocal done
    count = min(size, left)
    _, views = stages[bisect.bisect(begins, done // per_epoch) - 1]
    is_new = (views, count) not in compiled
    compiled.add((views, count))
    if views not in programs:
      programs[views] = make(_at(experiment, views))
    done += count
    return *programs[views](state, *take(count)), count, is_new

  return advance


def _at(
  experiment: experiment_lib.Experiment, views: config_lib.Views
) -> experiment_lib.Experiment:
  config = dataclasses.replace(experiment.config, views=views)
  return dataclasses.replace(experiment, config=config)


def map_steps(experiment: experiment_lib.Experiment) -> Callable:
  """Several steps as one program; see `parallel.map_steps`."""
  return parallel.map_steps(experiment.pure_step(), experiment.mesh)


def make_take(
  experiment: experiment_lib.Experiment, start_step: int
) -> Callable[[int], tuple[Any, jax.Array]]:
  """Makes the arguments of `map_steps` other than the state.

  Args:
    experiment: its images stay in the devices' memory.
    start_step: step of the first batch.

  Returns:
    A function from a number of steps to all images and the rows [steps, N] of
    the next batches.
  """
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
