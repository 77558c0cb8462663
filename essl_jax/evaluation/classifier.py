"""Training a linear classifier on augmented images, with or without encoder.

The linear probe and fine-tuning are the same training: of a linear layer on
features of random crops. They differ in what is trained beside the layer.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from typing import Any

import flax
import jax
from jax import lax
from jax.sharding import Mesh
import optax

from essl_jax import augment
from essl_jax.data import Source
from essl_jax.devices import parallel
from essl_jax.evaluation import linear_layer
from essl_jax.evaluation.recipe import Recipe
from essl_jax.evaluation.saved import Counts, Saved
from essl_jax.storage.preemption import Stopped
from essl_jax.training.views import image_keys

Features = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]
"""`(params, variables, normalised images) -> (features [N, D], variables)`."""


class State(flax.struct.PyTreeNode):
  """All that such a training changes, and the seed of all that it draws.

  Attributes:
    step: int32 scalar, steps done.
    key: uint32 data of a random key.
    params: what is trained: `head`, a linear layer, and maybe `encoder`.
    variables: of the encoder, what is not trained.
    opt_state: the optimiser's.
  """

  step: jax.Array
  key: jax.Array
  params: Any
  variables: Any
  opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Problem:
  """A classifier to be trained.

  Attributes:
    source: of training images.
    view: the random crops; flips and normalises too.
    recipe: with a batch size that devices and images allow.
    create: makes the state of a repetition from two random keys, one of
      weights and one of views.
    features: of the trained and the other variables.
    optimizer: of `State.params`.
    count: right test answers of a trained state.
    saves_variables: whether training changes `State.variables`.
  """

  source: Source
  view: augment.View
  recipe: Recipe
  create: Callable[[jax.Array, jax.Array], State]
  features: Features
  optimizer: optax.GradientTransformation
  count: Callable[[State], tuple[int, int]]
  saves_variables: bool

  @property
  def steps_per_epoch(self) -> int:
    """The last, incomplete batch is dropped."""
    return self.source.num_examples("train") // self.recipe.batch_size


def run(
  problem: Problem,
  mesh: Mesh,
  *,
  seed: int,
  saved: Saved,
  save_every_epochs: int,
  progress: Callable[[int, int], None] | None = None,
) -> Counts:
  """Trains all repetitions, going on from what is saved.

  Args:
    problem: what to train.
    mesh: of the devices that share each batch.
    seed: of weights, order and augmentation.
    saved: where to leave what is done.
    save_every_epochs: how often; also where `progress` raises `Stopped`.
    progress: called after each step with the steps done and in all.

  Returns:
    Right answers of every repetition.
  """
  repetitions = problem.recipe.repetitions
  steps = problem.recipe.epochs * problem.steps_per_epoch
  counts = saved.counts()
  step_fn = parallel.map_step(make_step(problem, parallel.AXIS), mesh)
  for repetition in range(len(counts), repetitions):
    own_seed = linear_layer.repetition_seed(seed, repetition)
    state = problem.create(*jax.random.split(jax.random.key(own_seed)))
    state = _resume(problem, saved, parallel.replicate(state, mesh))
    start = int(state.step)
    batches = stream(problem, mesh, own_seed, start)
    loss = None
    for number in range(start + 1, steps + 1):
      # The host runs one step ahead of the devices, not more.
      jax.block_until_ready(loss)
      state, loss = step_fn(state, next(batches))
      is_due = number % (save_every_epochs * problem.steps_per_epoch) == 0
      try:
        if progress is not None:
          progress(repetition * steps + number, repetitions * steps)
      except Stopped:
        saved.save(counts, _kept(problem, state))
        raise
      if is_due and number < steps:
        saved.save(counts, _kept(problem, state))
    counts.append(problem.count(state))
    saved.save(counts)
  return counts


def make_step(
  problem: Problem, axis_name: str | None = None
) -> Callable[[State, dict[str, jax.Array]], tuple[State, jax.Array]]:
  """Builds the pure step `(state, batch) -> (state, loss)`.

  Args:
    problem: what is trained.
    axis_name: mapped axis, over which gradients are averaged.

  Returns:
    The step of one device's share: "image" uint8 [N, H, W, 3], or cropped by
    the host [N, size, size, 3], and "label" int32 [N].
  """
  crop = host_crops(problem) is None
  mean = lambda tree: tree if axis_name is None else lax.pmean(tree, axis_name)

  def step(
    state: State, batch: dict[str, jax.Array]
  ) -> tuple[State, jax.Array]:
    key = jax.random.wrap_key_data(state.key)
    keys = image_keys(key, state.step, len(batch["label"]), axis_name)
    images = augment.random_view(keys, batch["image"], problem.view, crop=crop)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
      found, variables = problem.features(params, state.variables, images)
      loss = linear_layer.loss(params["head"], found, batch["label"])
      return loss, variables

    # The local loss is differentiated, then averaged.
    (loss, variables), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params
    )
    updates, opt_state = problem.optimizer.update(
      mean(gradients), state.opt_state, state.params
    )
    return state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      variables=variables,
      opt_state=opt_state,
    ), mean(loss)

  return step


def stream(
  problem: Problem, mesh: Mesh, seed: int, start_step: int
) -> Iterator[Any]:
  """Endless global batches; each process reads its share of them."""
  crops = host_crops(problem)
  batches = problem.source.batches(
    batch_size=problem.recipe.batch_size,
    seed=seed,
    start_step=start_step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    **({} if crops is None else {"crops": crops}),
  )
  return parallel.stream(batches, mesh)


def host_crops(problem: Problem) -> Mapping[str, augment.View] | None:
  """The crops that the host has to make, of images that differ in size."""
  if problem.source.differs_in_size:
    return {"image": problem.view}
  return None


def _kept(problem: Problem, state: State) -> State:
  """What of a state has to be saved."""
  return state if problem.saves_variables else state.replace(variables=None)


def _resume(problem: Problem, saved: Saved, state: State) -> State:
  """A repetition's state as it was saved, or as it begins."""
  restored = saved.restore(_kept(problem, state))
  if problem.saves_variables:
    return restored
  return restored.replace(variables=state.variables)
