"""What a run is for: how its states are measured, shown and reported.

Images with classes are measured by kNN and linear probes, unit cells by a
regression. The train loop and the reports know a task by these methods alone.
"""

from essl_jax.photonics.source import CellSource
from essl_jax.tasks.classification import Classification
from essl_jax.tasks.density_of_states import DensityOfStates
from essl_jax.tasks.task import Interrupt, Measured, Rows, Task
from essl_jax.training import experiment as experiment_lib

__all__ = ["Interrupt", "Measured", "Rows", "Task", "make"]


def make(experiment: experiment_lib.Experiment) -> Task:
  """The task that an experiment's data are for."""
  if isinstance(experiment.source, CellSource):
    return DensityOfStates(experiment, experiment.source)
  return Classification(experiment)
