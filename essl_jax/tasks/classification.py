"""Classes of images: kNN, linear probes and fine-tuning."""

import functools
import pathlib
from typing import Any

from essl_jax.data import Source
from essl_jax.evaluation import pictures
from essl_jax.evaluation import suite as suite_lib
from essl_jax.tasks.task import (
  Interrupt,
  Measured,
  Rows,
  measures_rows,
  progress,
  transformation_rows,
)
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib


class Classification:
  """Classes of images: kNN and linear probes; see `Task`."""

  def __init__(self, experiment: experiment_lib.Experiment):
    self._suite = suite_lib.Suite(experiment)
    self.monitor_every = experiment.config.knn.every_epochs
    self.monitor = self._suite.monitor

  @property
  def sources(self) -> tuple[Source, ...]:
    """See `Suite.sources`."""
    return self._suite.sources

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
    """kNN, linear probe, collapse, symmetry, recognised transformations."""
    # All processes take part in encoding; only one of them writes.
    bank, test = (
      self._suite.features(state, split, interrupt)
      for split in ("bank", "test")
    )
    with progress("linear probe", interrupt) as tick:
      figures = self._suite.run(
        state,
        bank,
        test,
        tick,
        workdir=workdir,
        has_head=has_head,
        interrupt=interrupt,
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
    with progress("fine-tuning", interrupt) as tick:
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
    rows += transformation_rows(figures, "images")
    return rows + measures_rows(figures)
