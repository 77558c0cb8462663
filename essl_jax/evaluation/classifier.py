"""Linear classifiers of random crops, with or without the encoder below.

The linear probe and fine-tuning are the same training: of a linear layer on
features of random crops. They differ in what is trained beside the layer.
"""

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np
import optax

from essl_jax import augment
from essl_jax.data import Source
from essl_jax.devices import parallel
from essl_jax.evaluation import fitting, linear_layer
from essl_jax.evaluation.recipe import Recipe
from essl_jax.evaluation.saved import Counts


@dataclasses.dataclass(frozen=True)
class Features:
  """What a linear layer classifies.

  Attributes:
    compute: `(params, variables, normalised images, keys) -> (features [N,
      width], variables)`; the params hold `head`, the layer, and `trained`.
    width: of the features.
    trained: params to begin with, beside those of the layer; where there are
      none, training leaves the variables as they are.
    variables: to begin with.
    test: features [M, width] and labels [M] of the test images, of a state.
  """

  compute: Callable[[Any, Any, jax.Array, Any], tuple[jax.Array, Any]]
  width: int
  trained: dict[str, Any]
  variables: Any
  test: Callable[[fitting.State], tuple[np.ndarray, np.ndarray]]


def run(
  features: Features,
  source: Source,
  mesh: Mesh,
  *,
  view: augment.View,
  recipe: Recipe,
  optimizer: optax.GradientTransformation,
  seed: int,
  **options: Any,
) -> Counts:
  """Trains all repetitions of a recipe, going on from what is saved.

  Args:
    features: of images.
    source: of training images; an incomplete last batch is dropped.
    mesh: of the devices that share each batch.
    view: the random crops; flips and normalises too.
    recipe: with a batch size that devices and images allow.
    optimizer: of all params.
    seed: of weights, order and augmentation.
    **options: the other arguments of `fitting.run`.

  Returns:
    Right answers of every repetition.
  """
  is_cropped = source.differs_in_size  # by the host

  def loss(params: Any, variables: Any, batch: Any) -> tuple[jax.Array, Any]:
    found, variables = features.compute(
      params, variables, batch["image"], batch["keys"]
    )
    return linear_layer.loss(params["head"], found, batch["label"]), variables

  problem = fitting.Problem(
    loss,
    optimizer,
    view,
    crop=not is_cropped,
    is_fixed=not features.trained,
  )

  def training(own_seed: int) -> fitting.Training:
    def create() -> fitting.State:
      weights, views = jax.random.split(jax.random.key(own_seed))
      head = linear_layer.initial_layer(
        weights, features.width, source.num_classes, recipe.initial_std
      )
      params = {"head": head, **features.trained}
      return problem.begin(views, params, features.variables)

    def batches(start_step: int) -> Iterator[Any]:
      shares = source.batches(
        batch_size=recipe.batch_size,
        seed=own_seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **({"crops": {"image": view}} if is_cropped else {}),
      )
      return parallel.stream(shares, mesh)

    return fitting.Training(
      create=create,
      batches=batches,
      epochs=recipe.epochs,
      steps_per_epoch=source.num_examples("train") // recipe.batch_size,
      figures=lambda state: linear_layer.count_correct(
        state.params["head"], *features.test(state)
      ),
    )

  repetitions = [
    training(fitting.repetition_seed(seed, i))
    for i in range(recipe.repetitions)
  ]
  return fitting.run(problem, repetitions, mesh, **options)
