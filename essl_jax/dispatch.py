"""How steps reach the devices: one by one, or many as one program."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from essl_jax import experiment as experiment_lib
from essl_jax import parallel
from essl_jax import step as step_lib
from essl_jax.data import arrays

# Long enough to hide the host, short enough to stop and to show progress.
_MOST_STEPS = 256

# `(state, most) -> (state, metrics, steps)`: does up to `most` steps. The
# metrics of several steps are [steps], those of one may be scalars.
Advance = Callable[
  [step_lib.TrainState, int], tuple[step_lib.TrainState, Any, int]
]


def steps_per_dispatch(experiment: experiment_lib.Experiment) -> int:
  """How many steps of an experiment make up one program.

  Args:
    experiment: from `experiment.build`.

  Returns:
    The largest divisor of an epoch's steps that the config allows.
  """
  most = experiment.config.steps_per_dispatch
  if most is None:
    is_cpu = experiment.mesh.devices.flat[0].platform == "cpu"
    is_held = isinstance(experiment.source, arrays.ArraySource)
    most = _MOST_STEPS if is_held and not is_cpu else 1
  total = experiment.steps_per_epoch
  return max(n for n in range(1, min(most, total) + 1) if total % n == 0)


def make_advance(
  experiment: experiment_lib.Experiment, start_step: int
) -> Advance:
  """What trains an experiment, from a step on.

  Args:
    experiment: from `experiment.build`.
    start_step: of the state that the first call gets.

  Returns:
    A function to be called with the state it returned before. A call with
    fewer steps left than a program has does a single one, so that there are
    two programs at most, whatever the step at which a run resumes.
  """
  size = steps_per_dispatch(experiment)
  if size == 1:
    step = experiment.make_step()
    batches = experiment.batches(start_step)

    def advance_one(
      state: step_lib.TrainState, most: int
    ) -> tuple[step_lib.TrainState, Any, int]:
      del most
      return *step(state, next(batches)), 1

    return advance_one

  mesh = experiment.mesh
  steps = parallel.map_steps(experiment.pure_step(), mesh)
  images, indices = experiment.held_batches(start_step)
  held = parallel.replicate(images, mesh)

  def advance(
    state: step_lib.TrainState, most: int
  ) -> tuple[step_lib.TrainState, Any, int]:
    count = size if most >= size else 1
    rows = np.stack([next(indices) for _ in range(count)])
    return *steps(state, held, parallel.shard_rows(rows, mesh)), count

  return advance


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
