"""Evaluates on unit cells by fine-tuning for their densities of states."""

from collections.abc import Mapping
from typing import Any

from essl_jax import config as config_lib
from essl_jax.config import bounds
from essl_jax.errors import UsageError
from essl_jax.evaluation.evaluation import (
  Evaluation,
  Picture,
  Row,
  count,
  lengths,
  percent,
)
from essl_jax.photonics import density, regression, regressor
from essl_jax.photonics import encoder as encoder_lib
from essl_jax.photonics import figures as figures_lib
from essl_jax.photonics.source import CellSource
from essl_jax.training import step as step_lib


class Regression(Evaluation):
  """Fine-tuning for the density of states.

  Adam trains all weights on cells of the split `train`, under random elements
  of the first view's groups. The figures are those of the epoch with the lowest
  error on the split `validation`. Without pre-training, each repetition starts
  from its own random weights.

  Attributes:
    labelled: number of cells to train on, or several numbers, which give
      figures each.
    repetitions: number of trainings, which differ in cells, order, augmentation
      and the head's weights.
    epochs: length of each training.
    batch_size: cells per step, over all devices.
    learning_rate: learning rate, constant.
    weight_decay: added to the gradient, as in PyTorch's Adam.
  """

  heading = "Density of states"
  needs_training = False

  labelled: bounds.Sizes = (3000,)
  repetitions: bounds.Repetitions = 3
  epochs: bounds.Epochs = 100
  batch_size: bounds.Count = 64
  learning_rate: bounds.Positive = 1e-4
  weight_decay: bounds.NonNegative = 1e-5

  def check(self, bench: Any) -> None:
    """Refuses other images, too few cells and wrong batch sizes."""
    source = bench.experiment.source
    if not isinstance(source, CellSource):
      raise UsageError(
        f"config.evaluations: {self.name} needs unit cells, but"
        f" data.name={bench.experiment.config.data.name} has none: leave it out"
      )
    mesh = bench.experiment.mesh
    regression.check(self, source.labelled, mesh)
    self.problem(bench.experiment).check_norms(mesh)

  def run(self, bench: Any, state: Any) -> dict[str, Any]:
    """Returns errors in percent with their protocol; see `regression.run`."""
    experiment = bench.experiment
    with bench.progress("regression") as tick:
      figures, samples = regression.run(
        self.problem(experiment, state),
        experiment.mesh,
        seed=experiment.config.seed,
        progress=tick,
        workdir=bench.workdir,
      )
    for name, value in experiment.source.made.items():
      figures[f"cells_{name}"] = value
    true = experiment.source.labelled["test"].density[: len(samples)]
    figures["samples"] = {
      "frequencies": density.frequencies()[: true.shape[1]].round(6),
      "true": true.astype(float).round(4),
      "predicted": samples.astype(float).round(4),
    }
    return figures

  def problem(self, experiment: Any, state: Any = None) -> regressor.Problem:
    """Makes the problem; without state or pre-training, with random weights."""
    config, encoder = experiment.config, experiment.networks.encoder
    network = config_lib.evaluated_network(config)
    is_random = state is None or not (config.epochs or config.init_from)
    head = encoder_lib.density_head(getattr(encoder, "width", 64))
    return regressor.Problem(
      model=encoder_lib.DensityRegressor(encoder, head),
      encoder=None if is_random else step_lib.encoder_variables(state, network),
      cells=experiment.source.labelled,
      settings=self,
      view=config.views.first,
    )

  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """Returns the errors for every number of labelled cells."""
    note = f"{lengths(figures)}, {count(figures, 'num_test')} test cells"
    found = []
    for number, errors in figures.get("by_labelled", {}).items():
      for name, title in (
        ("dos_error", "epoch chosen on validation cells"),
        ("dos_error_minimum_over_test", "lowest of all epochs on test cells"),
      ):
        row = f"DOS error, {int(number):,} labelled cells, {title}"
        found.append(Row(row, percent(errors, name), note))
    if "dos_error_of_free_space" in figures:
      value = percent(figures, "dos_error_of_free_space")
      found.append(Row("DOS error of predicting free space", value))
    return found

  @classmethod
  def pictures(cls, figures: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    """Draws errors by labelled cells, and true and predicted densities."""
    return figures_lib.draw(figures)

  def draw(self, bench: Any, state: Any, axes: Any) -> bool:
    """Draws true and predicted densities of the last `run`."""
    samples = bench.figures.get(self.name, {}).get("samples")
    if samples is None:
      return False
    figures_lib.draw_densities(axes, samples["true"], samples["predicted"])
    return True


PART = Regression
