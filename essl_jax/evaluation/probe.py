"""The linear probe of a run; `linear_probe` has the protocols."""

from collections.abc import Mapping
from typing import Any, Literal

from essl_jax import augment
from essl_jax.config import bounds
from essl_jax.errors import UsageError
from essl_jax.evaluation import linear_probe
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
    repetitions: number of probes, which differ in weights, order and
      augmentation.
    epochs: length of each probe's training.
    batch_size: images per step, over all devices.
    learning_rate: initial rate of the cosine; not scaled with the batch size.
    optimizer: `sgd`, or `lars` with a trust coefficient of 0.001, which adapts
      the bias as well.
    momentum: momentum of the gradient.
    weight_decay: added to the gradient.
    update_rate_every: how often the rate changes: every `step` or every
      `epoch`.
    initial_std: standard deviation of normal initial weights, with biases of 0.
      By default both are uniform within 1 / sqrt(features), as in PyTorch.
    interpolation: interpolation of the training crops: `bilinear` or `bicubic`.
    resize_size: length of the shorter side that test images of one size are
      resized to (bicubic) before their centre is cut out. By default they stay
      as kNN sees them. Sets whose images differ in size use `data.resize_size`.
    checkpoint_every_epochs: epochs between two checkpoints of a probe, from
      which the same command goes on.
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

  @property
  def needs_labels(self) -> bool:
    """Yes, if it runs."""
    return self.protocol != "none"

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
    experiment, encoding = bench.experiment, bench.encoding
    variables = step_lib.encoder_variables(state)
    resize = self._resize(bench)
    is_whole = encoding.bank is experiment.labelled
    is_kept = self.protocol == "fast" or resize == encoding.resize
    with bench.progress("linear probe") as tick:
      figures = linear_probe.run(
        encoding.encode,
        variables,
        experiment.labelled,
        protocol=self.protocol,
        recipe=Recipe.of(self),
        seed=experiment.config.seed,
        train=lambda: bench.features(state, "bank" if is_whole else "train"),
        test=lambda: (
          bench.features(state, "test")
          if is_kept
          else encoding.extract(variables, "test", resize, bench.interrupt)
        ),
        view=train_view(bench, self.interpolation),
        mesh=experiment.mesh,
        progress=tick,
        workdir=bench.workdir,
        save_every_epochs=self.checkpoint_every_epochs,
        circumstances=circumstances(bench, resize),
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


def train_view(bench: Any, interpolation: str) -> augment.View:
  """The crops on which a classifier is trained, of the first view's size."""
  size = bench.experiment.config.views.first.size
  return linear_probe.train_view(
    size, **bench.encoding.pixels, interpolation=interpolation
  )


def circumstances(bench: Any, resize: tuple[int, int] | None) -> dict[str, Any]:
  """What beside a recipe decides the figures of a classifier."""
  config = bench.experiment.config
  steps = []
  if bench.experiment.labelled.differs_in_size:
    size = config.data.image_size
    shorter = config.data.resize_size or size
    steps.append(f"Resize {shorter} bilinear, CenterCrop {size}")
  if resize is not None:
    steps.append(f"Resize {resize[0]} bicubic, CenterCrop {resize[1]}")
  return {
    "data": config.data.name,
    "precision": config.precision,
    "test_transform": ", ".join(steps) or "none",
  }


PART = Probe
