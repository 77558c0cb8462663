"""How steps reach the devices: one by one, or many as one program."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from essl_jax import experiment as experiment_lib
from essl_jax import parallel
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
    `experiment.steps_per_dispatch` does those.
  """
  size = experiment.steps_per_dispatch
  if size == 1:
    step = experiment.make_step()
    batches = experiment.batches(start_step)

    def advance_one(
      state: step_lib.TrainState, left: int
    ) -> tuple[step_lib.TrainState, Any, int]:
      del left
      return *step(state, next(batches)), 1

    return advance_one

  steps, take = make_steps(experiment, start_step)

  def advance(
    state: step_lib.TrainState, left: int
  ) -> tuple[step_lib.TrainState, Any, int]:
    count = min(size, left)
    return *steps(state, *take(count)), count

  return advance


def make_steps(
  experiment: experiment_lib.Experiment, start_step: int
) -> tuple[Callable, Callable[[int], tuple[Any, jax.Array]]]:
  """Several steps as one program, and what it is called with.

  Args:
    experiment: whose images stay in the devices' memory.
    start_step: of the state that the first call gets.

  Returns:
    `(state, images, rows) -> (state, metrics [steps])`, and a function of a
    number of steps that returns all images and the rows of the next batches.
  """
  mesh = experiment.mesh
  images, indices = experiment.held_batches(start_step)
  held = parallel.replicate(images, mesh)

  def take(count: int) -> tuple[Any, jax.Array]:
    rows = np.stack([next(indices) for _ in range(count)])
    return held, parallel.shard_rows(rows, mesh)

  return parallel.map_steps(experiment.pure_step(), mesh), take


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
