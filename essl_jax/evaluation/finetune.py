"""Fine-tuning all weights on few labels, with a new linear head."""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from essl_jax import augment
from essl_jax.config import bounds
from essl_jax.data import Source, subsets
from essl_jax.evaluation import (
  classifier,
  fitting,
  linear_layer,
  linear_probe,
)
from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation.evaluation import Evaluation, Row, count, percent
from essl_jax.evaluation.probe import Probe, circumstances, train_view
from essl_jax.evaluation.recipe import Recipe
from essl_jax.evaluation.saved import Saved
from essl_jax.training import networks as networks_lib
from essl_jax.training import step as step_lib

INITIAL_STD = 0.01
"""Of the head's weights, as in Barlow Twins' program."""

Extract = Callable[[Any], tuple[np.ndarray, np.ndarray]]
"""`encoder variables -> (features [M, D], labels [M])` of the test images."""


def run(
  encoder: Any,
  variables: Any,
  labelled: Source,
  extract: Extract,
  *,
  recipe: Recipe,
  encoder_learning_rate: float,
  view: augment.View,
  width: int,
  num_test: int,
  mesh: Mesh,
  seed: int = 0,
  progress: Callable[[int, int], None] | None = None,
  workdir: pathlib.Path | None = None,
  circumstances: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """Trains encoder and head on labelled images, and tests them.

  Batch norm takes the statistics of the whole batch, over all devices, and
  moves the running ones, which the test uses.

  Args:
    encoder: a Flax module, its batch norm over `parallel.AXIS`.
    variables: its `params` and `batch_stats` to begin with; left as they are.
    labelled: whose split `train` is what to train on.
    extract: gives the test features of an encoder.
    recipe: of the head; the encoder differs in its learning rate.
    encoder_learning_rate: at the start of the cosine.
    view: random crops and flips of the training images.
    width: of the features.
    num_test: number of test images.
    mesh: of the devices that share each batch.
    seed: of weights, order and augmentation.
    progress: called after each step; where it raises `Stopped`, what is done
      is saved.
    workdir: where it is saved, in `probe/`, also after each epoch; nowhere if
      absent.
    circumstances: what else decides the figures, to be reported.

  Returns:
    `finetune_top1`, `finetune_top5` (see `linear_layer.summarise`), and the
    protocol.

  Raises:
    UsageError: for a batch that the devices cannot divide.
    FloatingPointError: for a training that diverges.

  Reference:
    Chen et al. 2020 (arXiv 2002.05709), section 4.2 and appendix B.5; Zbontar
    et al. 2021 (arXiv 2103.03230), section 3.2, and their `evaluate.py`.
  """
  number = labelled.num_examples("train")
  recipe = recipe.fitted(number, mesh, "finetune.batch_size")
  described: dict[str, Any] = recipe.describe() | {
    "encoder_learning_rate": encoder_learning_rate,
    "seed": seed,
    "augmentation": linear_probe.describe_view(view),
    "num_train": number,
    "num_test": num_test,
  }
  described |= circumstances or {}
  saved = Saved(workdir / "probe" / "finetune.npz" if workdir else None, mesh)
  saved.claim(described | {"encoder": features_lib.fingerprint(variables)})
  counts = classifier.run(
    _trained(encoder, variables, extract, width),
    labelled,
    mesh,
    view=view,
    recipe=recipe,
    optimizer=_make_optimizer(
      recipe, number // recipe.batch_size, encoder_learning_rate
    ),
    seed=seed,
    saved=saved,
    save_every_epochs=1,
    progress=progress,
  )
  figures = linear_layer.summarise(
    counts, num_test, labelled.num_classes, "finetune"
  )
  return figures | described


def _trained(
  encoder: Any, variables: Any, extract: Extract, width: int
) -> classifier.Features:
  """The features of an encoder that learns, and its moving statistics."""

  def compute(
    params: Any, statistics: Any, images: jax.Array, keys: jax.Array
  ) -> tuple[jax.Array, Any]:
    found, statistics = apply(
      {"params": params["encoder"], **statistics},
      images,
      rngs={"dropout": keys[0]},
      image_keys=keys,
    )
    return found.astype(jnp.float32), statistics

  def test(state: fitting.State) -> tuple[np.ndarray, np.ndarray]:
    return extract({"params": state.params["encoder"], **state.variables})

  apply = networks_lib.make_apply(
    encoder, train=True, mutable=[x for x in variables if x != "params"]
  )
  statistics = dict(variables)
  trained = {"encoder": statistics.pop("params")}
  return classifier.Features(compute, width, trained, statistics, test)


def _make_optimizer(
  recipe: Recipe, steps: int, encoder_learning_rate: float
) -> optax.GradientTransformation:
  """The recipe's optimiser, at another rate for the encoder."""
  parts = {
    "head": recipe.make_optimizer(steps),
    "encoder": recipe.make_optimizer(steps, encoder_learning_rate),
  }
  return optax.partition(
    parts,
    lambda params: {
      name: jax.tree.map(lambda _, name=name: name, part)
      for name, part in params.items()
    },
  )


class Finetune(Evaluation):
  """Fine-tuning of all weights on few labels: `mode=finetune`.

  The defaults are what Barlow Twins' program gives for 1% of ImageNet; see
  docs/evaluation.md for 10%.

  Attributes:
    labels: fraction of the training images that keep their labels, the same in
      every class; see `data.subsets.choose`.
    label_list: file that names the images instead, one a line, such as SimCLR's
      `1percent.txt`.
    subset: which of the disjoint subsets of that size to use, from 0.
    epochs: passes over the labelled images.
    batch_size: images per step, over all devices.
    learning_rate: initial rate of the encoder; it follows a cosine per epoch.
    head_learning_rate: initial rate of the new linear head.
    momentum: momentum of SGD.
    weight_decay: added to the gradient of all weights.
  """

  heading = "Fine-tuning"
  modes = ("finetune",)
  accumulates = True
  needs_training = False

  labels: bounds.Fraction = 0.01
  label_list: str | None = None
  subset: bounds.Whole = 0
  epochs: bounds.Count = 20
  batch_size: bounds.Count = 256
  learning_rate: bounds.NonNegative = 0.002
  head_learning_rate: bounds.NonNegative = 0.5
  momentum: bounds.Share = 0.9
  weight_decay: bounds.NonNegative = 0.0

  @property
  def chosen(self) -> str:
    """Which labels, for tables."""
    if self.label_list is not None:
      return pathlib.Path(self.label_list).name
    name = f"{100 * self.labels:g}%"
    return f"{name}, subset {self.subset}" if self.subset else name

  @property
  def needs_labels(self) -> bool:
    """Yes."""
    return True

  def run(self, bench: Any, state: Any) -> dict[str, Any]:
    """The figures by the labels that were chosen; see `run` above."""
    experiment, encoding = bench.experiment, bench.encoding
    labelled = subsets.few_labels(
      experiment.labelled, self.labels, self.subset, self.label_list
    )
    test, _ = bench.features(state, "test")
    chosen: dict[str, Any] = {"label_list": self.label_list}
    if self.label_list is None:
      chosen = {"labels": self.labels, "subset": self.subset}
    interpolation = getattr(experiment.config, "probe", Probe()).interpolation
    with bench.progress("fine-tuning") as tick:
      figures = run(
        experiment.networks.encoder,
        step_lib.encoder_variables(state),
        labelled,
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
        view=train_view(bench, interpolation),
        width=test.shape[1],
        num_test=len(test),
        mesh=experiment.mesh,
        seed=experiment.config.seed,
        progress=tick,
        workdir=bench.workdir,
        circumstances=chosen | circumstances(bench, encoding.resize),
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
