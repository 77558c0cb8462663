"""Linear classification on a frozen encoder: two protocols.

`paper` trains on freshly augmented images, encoded at every step; `fast` trains
on cached features. Both minimise the softmax cross entropy of one linear layer
with a cosine schedule and count the correct answers over all test images.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from essl_jax.config import bounds
from essl_jax.data import Source
from essl_jax.data.checks import check_there
from essl_jax.errors import UsageError
from essl_jax.evaluation import classifier, linear_layer
from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation.bench import Labelled
from essl_jax.evaluation.evaluation import (
  Evaluation,
  Row,
  count,
  lengths,
  percent,
)
from essl_jax.evaluation.features import Encode
from essl_jax.evaluation.recipe import Recipe


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
    resize_size: length to which the shorter side of test images of one size is
      resized (bicubic) before their centre is cut out. By default they stay as
      in kNN. Sets whose images differ in size use `data.resize_size`.
    checkpoint_every_epochs: epochs between two checkpoints of a probe, from
      which the same command resumes.
  """

  key = "linear_probe"
  needs_training = False

  protocol: Literal["paper", "fast", "none"] = "paper"
  repetitions: bounds.Repetitions = 5
  epochs: bounds.Epochs = 100
  batch_size: bounds.Count = 256
  learning_rate: bounds.Positive = 30.0
  optimizer: Literal["sgd", "lars"] = "sgd"
  momentum: bounds.Share = 0.9
  weight_decay: bounds.NonNegative = 0.0
  update_rate_every: Literal["step", "epoch"] = "step"
  initial_std: bounds.NonNegative | None = None
  interpolation: Literal["bilinear", "bicubic"] = "bicubic"
  resize_size: bounds.Side | None = None
  checkpoint_every_epochs: bounds.Count = 10

  @property
  def needs_labels(self) -> bool:
    """True if the probe runs."""
    return self.protocol != "none"

  def check(self, bench: Any) -> None:
    """Raises UsageError for sizes and batches that do not fit."""
    if self.protocol == "none":
      return
    self._resize(bench)
    number = bench.experiment.labelled.num_examples("train")
    field, images = "probe.batch_size", "training images"
    check_there(field, self.batch_size, number, images)
    if self.protocol == "paper":
      Recipe.of(self).fitted(number, bench.experiment.mesh, field)

  def run(self, bench: Any, state: Any) -> dict[str, Any] | None:
    """The accuracies of all repetitions and their protocol."""
    if self.protocol == "none":
      return None
    encoding, source = bench.encoding, bench.experiment.labelled
    resize, recipe = self._resize(bench), Recipe.of(self)
    variables = bench.encoder_variables(state)
    setup = classifier.setup(bench, self.interpolation, resize)
    test = (
      bench.features(state, "test")
      if self.protocol == "fast" or resize == encoding.resize
      else encoding.extract(variables, "test", resize, bench.interrupt)
    )
    with (
      bench.progress("linear probe") as tick,
      features_lib.unchanged(variables),
    ):
      if self.protocol == "fast":
        figures = linear_layer.fit_features(
          *bench.features(state, "train"),
          *test,
          num_classes=source.num_classes,
          recipe=recipe,
          seed=setup.seed,
        )
      else:
        figures = run_paper(
          encoding.encode,
          variables,
          source,
          test,
          recipe=recipe,
          setup=setup,
          progress=tick,
          save_every_epochs=self.checkpoint_every_epochs,
        )
    return figures | bench.splits | bench.measured

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
        "config.probe.resize_size is for images of one size, but those of"
        f" {config.data.name} differ: set config.data.resize_size instead"
      )
    return self.resize_size, config.views.first.size


def run_paper(
  encode: Encode,
  variables: Any,
  source: Source,
  test: Labelled,
  *,
  recipe: Recipe,
  setup: classifier.Setup,
  **options: Any,
) -> dict[str, Any]:
  """Probes freshly augmented images: the protocol `paper`.

  Training drops the last, smaller batch of an epoch. A training set smaller
  than the batch size is one batch. Test images are not augmented, so all
  repetitions share their features.

  Args:
    encode: the frozen encoder, on normalised images.
    variables: the encoder's variables.
    source: source with the split `train`.
    test: features [M, D] and labels of the test images.
    recipe: how the layer is trained.
    setup: see `classifier.Setup`.
    **options: `save_every_epochs` and `progress` of `fitting.run`.

  Returns:
    The figures of `linear_layer.summarise` and the protocol.

  Raises:
    UsageError: the devices cannot divide the batch.
    FloatingPointError: the probe diverges.
  """
  number = source.num_examples("train")
  recipe = recipe.fitted(number, setup.mesh, "probe.batch_size")
  features = _frozen(encode, variables, test)
  optimizer = recipe.make_optimizer(number // recipe.batch_size)
  protocol = {"protocol": "paper", "seed": setup.seed} | recipe.describe()
  protocol |= {
    "augmentation": classifier.describe_view(setup.view),
    "features": "frozen encoder in evaluation mode",
    "num_train": number,
    "num_test": len(test[0]),
  }
  return classifier.Classifier(
    "linear_probe", features, source, setup, recipe, optimizer
  ).run("linear", protocol, **options)


def _frozen(
  encode: Encode, variables: Any, test: Labelled
) -> classifier.Features:
  """The features of a frozen encoder."""

  def compute(
    params: Any, variables: Any, images: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, Any]:
    del params, key
    found = encode(variables, images).astype(jnp.float32)
    return jax.lax.stop_gradient(found), variables

  return classifier.Features(
    compute,
    width=test[0].shape[1],
    trained={},
    variables=variables,
    test=lambda _: test,
    fingerprint=features_lib.fingerprint(variables),
  )


PART = Probe
