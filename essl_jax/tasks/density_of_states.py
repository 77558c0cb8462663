"""Densities of states of unit cells: a regression."""

import functools
import pathlib
from typing import Any

from essl_jax.data import Source
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import collapse, symmetry, transformation
from essl_jax.evaluation.encoding import BATCH, Encoding
from essl_jax.models.layers import convolution
from essl_jax.photonics import network, regression, regressor
from essl_jax.photonics.source import FREQUENCIES, CellSource
from essl_jax.tasks.task import (
  Interrupt,
  Measured,
  Rows,
  measures_rows,
  progress,
  transformation_rows,
)
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import networks as networks_lib
from essl_jax.training import step as step_lib


class DensityOfStates:
  """Densities of states of unit cells: a regression; see `Task`."""

  monitor_every = 0

  def __init__(self, experiment: experiment_lib.Experiment, source: CellSource):
    self._experiment = experiment
    self._source = source
    self._encoding = Encoding(experiment)
    config = experiment.config
    regression.check(config.regression, source.labelled, experiment.mesh)
    self._is_random = not config.epochs and not config.init_from
    if not self._is_random:
      symmetry.check(self._encoding)

  @property
  def sources(self) -> tuple[Source, ...]:
    """The cells, and the sample of `measures`."""
    return self._source, self._encoding.sample

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
    """The regression, collapse, symmetry and recognised transformations."""
    config, mesh = self._experiment.config, self._experiment.mesh
    figures: dict[str, dict[str, Any]] = {}
    if config.equivariance.weight > 0 and config.epochs and has_head:
      figures["transformation"] = transformation.run(
        self._experiment, state, batch_size=BATCH
      ) | {"test_split": config.data.test_split}
    if not self._is_random:
      test, _ = self._encoding.features(state, "test", interrupt)
      figures["collapse"] = collapse.run(self._encoding, state, test, interrupt)
      if config.measures.groups:
        figures["symmetry"] = symmetry.run(self._encoding, state, interrupt)
    with progress("regression", interrupt) as tick:
      figures["regression"], samples = regression.run(
        self._problem(state),
        mesh,
        seed=config.seed,
        progress=tick,
        workdir=workdir,
      )
    for name, value in self._source.made.items():
      figures["regression"][f"cells_{name}"] = value
    true = self._source.labelled["test"].density[: len(samples)]
    figures["regression"]["samples"] = {
      "frequencies": FREQUENCIES[: true.shape[1]].round(6),
      "true": true.astype(float).round(4),
      "predicted": samples.astype(float).round(4),
    }
    draw = functools.partial(
      regression.draw_densities, density=true, predicted=samples
    )
    return Measured(figures, draw)

  def _problem(self, state: step_lib.TrainState) -> regressor.Problem:
    config, mesh = self._experiment.config, self._experiment.mesh
    encoder = networks_lib.make_encoder(
      config,
      axis_name=parallel.AXIS,
      conv_general_dilated=convolution.default_conv(
        mesh.devices.flat[0].platform
      ),
    )
    return regressor.Problem(
      model=network.DensityRegressor(
        encoder, network.density_head(config.model.width)
      ),
      encoder=None if self._is_random else step_lib.encoder_variables(state),
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
        ("dos_error_minimum_over_test", "minimum over epochs on test cells"),
      ):
        spread = f"{figures[name]:.2f}% +- {figures[f'{name}_std']:.2f}"
        rows.append((f"DOS error, {trained}, {title}", spread))
    rows += transformation_rows(results["figures"], "cells")
    return rows + measures_rows(results["figures"])
