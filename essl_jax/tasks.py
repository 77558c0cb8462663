"""What a run is for: how its states are measured, shown and reported.

Images with classes are measured by kNN and linear probes, unit cells by a
regression. The train loop and the reports know a task by these methods alone.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import pathlib
from typing import Any, NamedTuple, Protocol

from essl_jax import experiment as experiment_lib
from essl_jax import logs, methods, parallel, pictures
from essl_jax import step as step_lib
from essl_jax.data import Source
from essl_jax.data.cells import FREQUENCIES, CellSource
from essl_jax.errors import UsageError
from essl_jax.evaluation import regression, regressor, transformation
from essl_jax.evaluation import suite as suite_lib
from essl_jax.models import convolution
from essl_jax.models import photonics as photonics_models

_BATCH = 256  # cells a device encodes at once
Interrupt = Callable[[], None]
Rows = list[tuple[str, str]]


class Measured(NamedTuple):
  """What is known of a state.

  Attributes:
    figures: by measure, each with its protocol.
    draw: draws the task's part of a picture on axes of matplotlib.
  """

  figures: dict[str, dict[str, Any]]
  draw: Callable[[Any], None]


class Task(Protocol):
  """How states of one experiment are measured.

  Attributes:
    monitor_every: epochs between two looks at the state in training; 0 is
      only at the end.
    sources: all that is read, and may hold images that cannot be.
  """

  monitor_every: int

  @property
  def sources(self) -> tuple[Source, ...]:
    """See the attributes above."""

  def monitor(
    self,
    state: step_lib.TrainState,
    *,
    keep: bool = False,
    interrupt: Interrupt = lambda: None,
  ) -> dict[str, float]:
    """A look at a state in training; `keep` where it is the last one."""

  def describe(self, figures: dict[str, float]) -> str:
    """What a look has shown, in a few words; empty if nothing."""

  def measure(
    self,
    state: step_lib.TrainState,
    interrupt: Interrupt,
    workdir: pathlib.Path,
    has_head: bool,
  ) -> Measured:
    """All figures of a state.

    Args:
      state: what to measure.
      interrupt: called between batches and steps, in all processes alike; may
        raise.
      workdir: where unfinished work is kept.
      has_head: whether the transformation head has been trained at all.

    Returns:
      The figures and their picture.
    """

  def finetune(
    self,
    state: step_lib.TrainState,
    interrupt: Interrupt,
    workdir: pathlib.Path,
  ) -> dict[str, Any]:
    """Figures of `mode=finetune`; arguments as for `measure`."""

  def rows(self, results: dict[str, Any]) -> Rows:
    """The lines of the table at the end: every figure with its protocol."""


def make(experiment: experiment_lib.Experiment) -> Task:
  """The task that an experiment's data are for."""
  if isinstance(experiment.source, CellSource):
    return DensityOfStates(experiment, experiment.source)
  return Classification(experiment)


@contextlib.contextmanager
def _progress(
  name: str, interrupt: Interrupt
) -> Iterator[Callable[[int, int], None]]:
  """A bar whose every step may be interrupted."""
  with logs.progress_bar(name) as progress:

    def tick(done: int, total: int) -> None:
      interrupt()
      progress(done, total)

    yield tick


class Classification:
  """Classes of images: kNN and linear probes; see `Task`."""

  def __init__(self, experiment: experiment_lib.Experiment):
    self._suite = suite_lib.Suite(experiment)
    self.monitor_every = experiment.config.knn.every_epochs
    self.monitor = self._suite.monitor
    self._source = experiment.source

  @property
  def sources(self) -> tuple[Source, ...]:
    """The images, and those of the bank of kNN."""
    return self._source, self._suite.bank

  def describe(self, figures: dict[str, float]) -> str:
    """The accuracy of kNN."""
    return f"kNN {figures['knn_top1']:.2f}%"

  def measure(
    self,
    state: step_lib.TrainState,
    interrupt: Interrupt,
    workdir: pathlib.Path,
    has_head: bool,
  ) -> Measured:
    """kNN, linear probe and recognised transformations."""
    # All processes take part in encoding; only one of them writes.
    bank, test = (
      self._suite.features(state, split, interrupt)
      for split in ("bank", "test")
    )
    with _progress("linear probe", interrupt) as tick:
      figures = self._suite.run(
        state, bank, test, tick, workdir=workdir, has_head=has_head
      )
    draw = functools.partial(
      pictures.draw_features, features=test[0], labels=test[1]
    )
    return Measured(figures, draw)

  def finetune(
    self,
    state: step_lib.TrainState,
    interrupt: Interrupt,
    workdir: pathlib.Path,
  ) -> dict[str, Any]:
    """Fine-tuning on few labels."""
    with _progress("fine-tuning", interrupt) as tick:
      return self._suite.finetune(state, tick, workdir=workdir)

  def rows(self, results: dict[str, Any]) -> Rows:
    """Accuracies in percent."""
    figures, rows = results["figures"], []
    if "knn_top1" in results["untrained"]:
      untrained = results["untrained"]["knn_top1"]
      is_import = results["config"].get("init_from") is not None
      name = "encoder before training" if is_import else "untrained encoder"
      rows.append((f"kNN top-1, {name}", f"{untrained:.2f}%"))
    knn = figures["knn"]
    rows.append(
      (
        f"kNN top-1, k {knn['k']}, temperature {knn['temperature']:g}",
        f"{knn['knn_top1']:.2f}%",
      )
    )
    if "linear_probe" in figures:
      probe = figures["linear_probe"]
      rows.append(
        (
          f"linear probe top-1, {probe['protocol']} protocol,"
          f" {probe['repetitions']} x {probe['epochs']} epochs",
          f"{probe['linear_top1']:.2f}% +- {probe['linear_top1_std']:.2f}",
        )
      )
    return rows + _transformation_rows(figures, "images")


class DensityOfStates:
  """Densities of states of unit cells: a regression; see `Task`."""

  monitor_every = 0

  def __init__(self, experiment: experiment_lib.Experiment, source: CellSource):
    self._experiment = experiment
    self._source = source

  @property
  def sources(self) -> tuple[Source, ...]:
    """The cells."""
    return (self._source,)

  def monitor(
    self,
    state: step_lib.TrainState,
    *,
    keep: bool = False,
    interrupt: Interrupt = lambda: None,
  ) -> dict[str, float]:
    """Nothing: a regression takes too long."""
    del state, keep, interrupt
    return {}

  def describe(self, figures: dict[str, float]) -> str:
    """Nothing."""
    del figures
    return ""

  def measure(
    self,
    state: step_lib.TrainState,
    interrupt: Interrupt,
    workdir: pathlib.Path,
    has_head: bool,
  ) -> Measured:
    """The regression and recognised transformations."""
    config, mesh = self._experiment.config, self._experiment.mesh
    figures: dict[str, dict[str, Any]] = {}
    if config.equivariance.weight > 0 and config.epochs and has_head:
      figures["transformation"] = transformation.run(
        self._experiment, state, batch_size=_BATCH
      ) | {"test_split": config.data.test_split}
    with _progress("regression", interrupt) as tick:
      figures["regression"], samples = regression.run(
        self._problem(state),
        mesh,
        seed=config.seed,
        progress=tick,
        workdir=workdir,
      )
    true = self._source.labelled["test"].density[: len(samples)]
    figures["regression"]["samples"] = {
      "frequencies": FREQUENCIES[: true.shape[1]].round(6),
      "true": true.astype(float).round(4),
      "predicted": samples.astype(float).round(4),
    }
    draw = functools.partial(
      pictures.draw_densities, density=true, predicted=samples
    )
    return Measured(figures, draw)

  def _problem(self, state: step_lib.TrainState) -> regressor.Problem:
    config, mesh = self._experiment.config, self._experiment.mesh
    is_random = not config.epochs and not config.init_from
    encoder = methods.make_encoder(
      config,
      axis_name=parallel.AXIS,
      conv_general_dilated=convolution.default_conv(
        mesh.devices.flat[0].platform
      ),
    )
    return regressor.Problem(
      model=photonics_models.DensityRegressor(
        encoder, photonics_models.density_head(config.model.width)
      ),
      encoder=None if is_random else step_lib.encoder_variables(state),
      cells=self._source.labelled,
      settings=config.regression,
      view=config.views.first,
    )

  def finetune(
    self,
    state: step_lib.TrainState,
    interrupt: Interrupt,
    workdir: pathlib.Path,
  ) -> dict[str, Any]:
    """Refuses: there are no classes."""
    raise UsageError("config.mode=finetune is for images with classes")

  def rows(self, results: dict[str, Any]) -> Rows:
    """Relative errors in percent."""
    found = results["figures"]["regression"]
    free = f"{found['dos_error_of_free_space']:.2f}%"
    rows = [("DOS error of predicting free space", free)]
    for count, figures in found["by_labelled"].items():
      trained = (
        f"{int(count):,} labelled cells, {found['repetitions']} x"
        f" {found['epochs']} epochs"
      )
      for name, title in (
        ("dos_error", "epoch chosen on validation cells"),
        ("dos_error_minimum_over_test", "minimum over test (the original's)"),
      ):
        spread = f"{figures[name]:.2f}% +- {figures[f'{name}_std']:.2f}"
        rows.append((f"DOS error, {trained}, {title}", spread))
    return rows + _transformation_rows(results["figures"], "cells")


def _transformation_rows(figures: dict[str, Any], what: str) -> Rows:
  if "transformation" not in figures:
    return []
  found = figures["transformation"]
  chance = 100 / len(found["per_element"])
  return [
    (
      f"{found['group']} recognised on test {what}",
      f"{found['transformation_accuracy']:.2f}% (chance {chance:.1f}%)",
    )
  ]
