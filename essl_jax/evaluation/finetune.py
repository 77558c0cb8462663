"""Fine-tuning all weights on few labels, with a new linear head."""

from collections.abc import Callable
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from essl_jax import augment
from essl_jax.data import Source
from essl_jax.evaluation import (
  classifier,
  fitting,
  linear_layer,
  linear_probe,
)
from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation.recipe import Recipe
from essl_jax.evaluation.saved import Saved

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
    params: Any, statistics: Any, images: jax.Array
  ) -> tuple[jax.Array, Any]:
    found, statistics = encoder.apply(
      {"params": params["encoder"], **statistics},
      images,
      train=True,
      mutable=list(statistics),
    )
    return found.astype(jnp.float32), statistics

  def test(state: fitting.State) -> tuple[np.ndarray, np.ndarray]:
    return extract({"params": state.params["encoder"], **state.variables})

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
