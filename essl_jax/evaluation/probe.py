"""The linear probe of a run; `linear_probe` has the protocols."""

from collections.abc import Mapping
from typing import Any, Literal

from essl_jax.config import bounds
from essl_jax.errors import UsageError
from essl_jax.evaluation import classifier, linear_probe
from essl_jax.evaluation.evaluation import (
  Evaluation,
  Row,
  count,
  lengths,
  percent,
)
from essl_jax.evaluation.recipe import Recipe
from essl_jax.training import step as step_lib


class Probe(Evaluation):
  """A linear classifier on frozen features.

  Attributes:
    protocol: `paper` (freshly augmented images at every step), `fast` (cached
      features) or `none`.
    repetitions: probes that differ in weights, order and augmentation.
    epochs: of each.
    batch_size: images per step, over all devices.
    learning_rate: at the start of the cosine; not scaled with the batch.
    optimizer: `sgd`, or `lars` with a trust coefficient of 0.001, which
      adapts the bias as well.
    momentum: of the gradients' running sum.
    weight_decay: added to the gradient.
    update_rate_every: `step` or `epoch`.
    initial_std: of normal initial weights, with biases of 0; absent, both are
      uniform within 1 / sqrt(features), PyTorch's default.
    interpolation: of the training crops: `bilinear` or `bicubic`.
    resize_size: shorter side (bicubic) that test images of one size are
      resized to before their centre is cut out; absent, they are left as kNN
      sees them. Where images differ in size, `data.resize_size` is read.
    checkpoint_every_epochs: how often an unfinished probe is saved, from which
      the same command goes on.
  """

  key = "linear_probe"
  needs_training = False

  protocol: Literal["paper", "fast", "none"] = "paper"
  repetitions: bounds.Count = 5
  epochs: bounds.Count = 100
  batch_size: bounds.Count = 256
  learning_rate: bounds.Positive = 30.0
  optimizer: Literal["sgd", "lars"] = "sgd"
  momentum: bounds.Share = 0.9
  weight_decay: bounds.NonNegative = 0.0
  update_rate_every: Literal["step", "epoch"] = "step"
  initial_std: bounds.NonNegative | None = None
  interpolation: Literal["bilinear", "bicubic"] = "bicubic"
  resize_size: bounds.Count | None = None
  checkpoint_every_epochs: bounds.Count = 10

  def check(self, bench: Any) -> None:
    """Refuses sizes and batches that do not fit the images and devices."""
    if self.protocol == "none":
      return
    self._resize(bench)
    if self.protocol == "paper":
      experiment = bench.experiment
      number = experiment.labelled.num_examples("train")
      Recipe.of(self).fitted(number, experiment.mesh, "probe.batch_size")

  def run(self, bench: Any, state: Any) -> dict[str, Any] | None:
    """Accuracies of all repetitions and their protocol."""
    if self.protocol == "none":
      return None
    encoding, resize = bench.encoding, self._resize(bench)
    variables = step_lib.encoder_variables(state)
    is_kept = self.protocol == "fast" or resize == encoding.resize
    with bench.progress("linear probe") as tick:
      figures = linear_probe.run(
        encoding.encode,
        variables,
        bench.experiment.labelled,
        protocol=self.protocol,
        recipe=Recipe.of(self),
        train=lambda: bench.features(state, "train"),
        test=lambda: (
          bench.features(state, "test")
          if is_kept
          else encoding.extract(variables, "test", resize, bench.interrupt)
        ),
        progress=tick,
        save_every_epochs=self.checkpoint_every_epochs,
        setup=classifier.setup(bench, self.interpolation, resize),
      )
    return figures | bench.splits

  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """Mean and spread over the repetitions."""
    note = (
      f"{figures.get('protocol')} protocol, {lengths(figures)},"
      f" {count(figures, 'num_test')} test images"
    )
    return [
      Row(f"Linear probe top-{k}", percent(figures, f"linear_top{k}"), note)
      for k in (1, 5)
      if f"linear_top{k}" in figures
    ]

  def _resize(self, bench: Any) -> tuple[int, int] | None:
    """How the device resizes test images."""
    config = bench.experiment.config
    if self.resize_size is None:
      return bench.encoding.resize
    if bench.experiment.labelled.differs_in_size:
      raise UsageError(
        "config.probe.resize_size is for images of one size; those of"
        f" {config.data.name} differ: set config.data.resize_size instead"
      )
    return self.resize_size, config.views.first.size


PART = Probe
