"""The lines that a run prints before its first step."""

from typing import Any

import jax

from essl_jax import optim
from essl_jax.training import resolution


def describe(experiment: Any, params: Any) -> list[str]:
  """Says what is about to run, where, and how each parameter is trained.

  Args:
    experiment: `experiment.Experiment`.
    params: by network.

  Returns:
    The lines.
  """
  config, mesh = experiment.config, experiment.mesh
  devices = f"{mesh.size} {mesh.devices.flat[0].device_kind} device(s)"
  size = sum(x.size for x in jax.tree.leaves(params))
  first = (
    f"{experiment.name}: {size:,} parameters, {experiment.total_steps:,} steps"
    f" of {config.batch_size} images on {devices}"
  )
  if experiment.steps_per_dispatch > 1:
    first += f", {experiment.steps_per_dispatch} steps a program"
  sizes = resolution.describe(config, experiment.parts)
  groups = optim.describe_groups(experiment.groups, params, experiment.frozen)
  clip = [experiment.clip.describe()] if experiment.clip else []
  return [first, *sizes, *groups, *clip]
