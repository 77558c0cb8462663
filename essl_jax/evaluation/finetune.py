"""Fine-tuning all weights on few labels, with a new linear head."""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from essl_jax.config import bounds
from essl_jax.data import Source, subsets
from essl_jax.data.checks import check_there
from essl_jax.evaluation import classifier
from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation.bench import Labelled
from essl_jax.evaluation.evaluation import Evaluation, Row, count, percent
from essl_jax.evaluation.recipe import Recipe
from essl_jax.training import applying, norms

_MORE_IMAGES = "give a larger config.finetune.batch_size, or more labels"
INITIAL_STD = 0.01
"""Standard deviation of the head's weights, as in Barlow Twins' program."""

Extract = Callable[[Any], Labelled]
"""`encoder variables -> (features [M, D], labels [M])` of the test images."""


def run(
  encoder: Any,
  variables: Any,
  labelled: Source,
  test: Labelled,
  extract: Extract,
  *,
  recipe: Recipe,
  encoder_learning_rate: float,
  setup: classifier.Setup,
  kind: str = applying.OUTPUT,
  **options: Any,
) -> dict[str, Any]:
  """Trains encoder and head on labelled images and tests them.

  Batch norm uses the statistics of the whole batch over all devices, and
  updates the running statistics, which the test uses.

  Args:
    encoder: a Flax module, its batch norm over `parallel.AXIS`.
    variables: its initial `params` and `batch_stats`; not changed.
    labelled: source whose split `train` to train on.
    test: features [M, D] and labels of the test images, with these variables.
    extract: computes them with other variables.
    recipe: recipe of the head; the encoder differs in its learning rate.
    encoder_learning_rate: the encoder's rate at the start of the cosine.
    setup: see `classifier.Setup`.
    kind: which features of the encoder; see `applying.read`.
    **options: `save_every_epochs` and `progress` of `fitting.run`.

  Returns:
    The figures of `linear_layer.summarise` and the protocol.

  Raises:
    UsageError: the devices cannot divide the batch.
    FloatingPointError: the training diverges.
  """
  number = labelled.num_examples("train")
  recipe = recipe.fitted(number, setup.mesh, "finetune.batch_size")
  features = _trained(encoder, variables, extract, test[0].shape[1], kind)
  steps, rate = number // recipe.batch_size, encoder_learning_rate
  protocol = recipe.describe() | {
    "encoder_learning_rate": rate,
    "seed": setup.seed,
    "augmentation": classifier.describe_view(setup.view),
    "num_train": number,
    "num_test": len(test[0]),
  }
  optimizer = _make_optimizer(recipe, steps, rate)
  return classifier.Classifier(
    "finetune", features, labelled, setup, recipe, optimizer
  ).run("finetune", protocol, **options)


def _trained(
  encoder: Any, variables: Any, extract: Extract, width: int, kind: str
) -> classifier.Features:
  """The features of a trained encoder, and its running statistics."""

  def compute(
    params: Any, statistics: Any, images: jax.Array, keys: jax.Array
  ) -> tuple[jax.Array, Any]:
    with norms.checked(_MORE_IMAGES):
      found, statistics = apply(
        {"params": params["encoder"], **statistics},
        images,
        rngs={"dropout": keys[0]},
        image_keys=keys,
      )
    return found.astype(jnp.float32), statistics

  apply = applying.make_apply(
    encoder,
    train=True,
    mutable=[x for x in variables if x != "params"],
    features=kind,
  )
  statistics = dict(variables)
  return classifier.Features(
    compute,
    width=width,
    trained={"encoder": statistics.pop("params")},
    variables=statistics,
    test=lambda state: extract(
      {"params": state.params["encoder"], **state.variables}
    ),
    fingerprint=features_lib.fingerprint(variables),
  )


def _make_optimizer(
  recipe: Recipe, steps: int, encoder_learning_rate: float
) -> optax.GradientTransformation:
  """The recipe's optimiser, with another rate for the encoder."""
  parts = {
    "head": recipe.make_optimizer(steps),
    "encoder": recipe.make_optimizer(steps, encoder_learning_rate),
  }
  return optax.partition(parts, {name: name for name in parts})


class Finetune(Evaluation):
  """Fine-tuning of all weights on few labels: `mode=finetune`.

  The defaults are those of Barlow Twins' program for 1% of ImageNet; see
  docs/evaluation.md for 10%.

  Attributes:
    labels: fraction of the training images that keep their labels, the same in
      every class; see `data.subsets.choose`.
    label_list: file that lists these images instead, one per line, such as
      SimCLR's `1percent.txt`.
    subset: which of the disjoint subsets of that size to use, from 0.
    epochs: passes over the labelled images.
    batch_size: images per step, over all devices.
    learning_rate: initial rate of the encoder; it follows a cosine per epoch.
    head_learning_rate: initial rate of the new linear head.
    momentum: momentum of SGD.
    weight_decay: added to the gradient of all weights.
    interpolation: interpolation of the training crops: `bilinear` or `bicubic`.

  Reference:
    Chen et al. 2020 (arXiv 2002.05709), section 4.2 and appendix B.5; Zbontar
    et al. 2021 (arXiv 2103.03230), section 3.2, and their `evaluate.py`.
  """

  heading = "Fine-tuning"
  modes = ("finetune",)
  accumulates = True
  needs_training = False

  labels: bounds.Fraction = 0.01
  label_list: str | None = None
  subset: bounds.Whole = 0
  epochs: bounds.Epochs = 20
  batch_size: bounds.Count = 256
  learning_rate: bounds.NonNegative = 0.002
  head_learning_rate: bounds.NonNegative = 0.5
  momentum: bounds.Share = 0.9
  weight_decay: bounds.NonNegative = 0.0
  interpolation: Literal["bilinear", "bicubic"] = "bicubic"

  @property
  def chosen(self) -> str:
    """The choice of labels, for tables."""
    if self.label_list is not None:
      return pathlib.Path(self.label_list).name
    name = f"{100 * self.labels:g}%"
    return f"{name}, subset {self.subset}" if self.subset else name

  @property
  def needs_labels(self) -> bool:
    """True."""
    return True

  def run(self, bench: Any, state: Any) -> dict[str, Any]:
    """The figures under the name of the chosen labels; see `run` above."""
    experiment, encoding = bench.experiment, bench.encoding
    labelled = subsets.few_labels(
      experiment.labelled, self.labels, self.subset, self.label_list
    )
    number = labelled.num_examples("train")
    images = "images that keep their labels"
    check_there("finetune.batch_size", self.batch_size, number, images)
    chosen: dict[str, Any] = {"label_list": self.label_list}
    if self.label_list is None:
      chosen = {"labels": self.labels, "subset": self.subset}
    setup = classifier.setup(bench, self.interpolation, encoding.resize, chosen)
    with bench.progress("fine-tuning") as tick:
      figures = run(
        experiment.networks.encoder,
        bench.encoder_variables(state),
        labelled,
        bench.features(state, "test"),
        lambda variables: encoding.extract(variables, "test", encoding.resize),
        recipe=Recipe(
          epochs=self.epochs,
          batch_size=self.batch_size,
          learning_rate=self.head_learning_rate,
          momentum=self.momentum,
          weight_decay=self.weight_decay,
          update_rate_every="epoch",
          repetitions=1,
          initial_std=INITIAL_STD,
        ),
        encoder_learning_rate=self.learning_rate,
        setup=setup,
        kind=experiment.config.evaluate_features,
        save_every_epochs=1,
        progress=tick,
      )
    return {self.chosen: figures | bench.splits}

  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """The accuracy for each choice of labels."""
    return [
      Row(
        f"Fine-tuned on {name} of the labels, top-1",
        percent(found, "finetune_top1"),
        f"{count(found, 'num_train')} images, {found.get('epochs')} epochs",
      )
      for name, found in figures.items()
    ]


PART = Finetune
