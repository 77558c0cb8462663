"""Fits a head, with or without the network below it: one step, one loop.

Linear probes, fine-tuning and regressions share this training. They differ in
their `Problem`, which is minimised, and in what each `Training` measures.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any

import flax
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from essl_jax import augment
from essl_jax.devices import parallel
from essl_jax.evaluation.saved import Counts, Saved
from essl_jax.storage.preemption import Stopped
from essl_jax.training.draws import image_keys

_NETWORK = 2**31 - 1  # no other use of an image's key folds in this number


class State(flax.struct.PyTreeNode):
  """The state of a training and the seed of its random draws.

  Attributes:
    step: int32 scalar, number of finished steps.
    key: uint32 data of a random key.
    params: trained parameters.
    variables: other variables: running statistics, or a fixed network.
    opt_state: the optimiser's state.
  """

  step: jax.Array
  key: jax.Array
  params: Any
  variables: Any
  opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Problem:
  """What is trained and how.

  Attributes:
    loss: `(params, variables, batch) -> (mean loss, variables)` of one device's
      share of a batch.
    optimizer: optimiser of the params.
    view: augments the batch's "image" first; None does not augment.
    crop: whether the view also crops; False if the host has cropped.
    is_fixed: whether training leaves the variables unchanged; then they are not
      saved.
  """

  loss: Callable[[Any, Any, Any], tuple[jax.Array, Any]]
  optimizer: optax.GradientTransformation
  view: augment.View | None = None
  crop: bool = True
  is_fixed: bool = False

  def begin(self, key: jax.Array, params: Any, variables: Any = None) -> State:
    """The state at step 0; the views are drawn from the key."""
    return State(
      step=jnp.zeros((), jnp.int32),
      key=jax.random.key_data(key),
      params=params,
      variables=variables,
      opt_state=self.optimizer.init(params),
    )


@dataclasses.dataclass(frozen=True)
class Training:
  """One of several trainings of a problem.

  Attributes:
    create: makes the state at step 0.
    batches: gives endless global batches, sharded, from a step on.
    epochs: number of epochs.
    steps_per_epoch: number of steps in each.
    figures: computes the row of numbers for a trained state.
    after_epoch: called with the state after every epoch.
  """

  create: Callable[[], State]
  batches: Callable[[int], Iterator[Any]]
  epochs: int
  steps_per_epoch: int
  figures: Callable[[State], tuple[Any, ...]]
  after_epoch: Callable[[State], None] = lambda state: None

  @property
  def steps(self) -> int:
    """Number of steps in all epochs."""
    return self.epochs * self.steps_per_epoch


def make_step(
  problem: Problem, axis_name: str | None = None
) -> Callable[[State, Any], tuple[State, jax.Array]]:
  """Builds the pure step `(state, batch) -> (state, loss)`.

  Args:
    problem: what is trained.
    axis_name: mapped axis over which gradients are averaged.

  Returns:
    The step for one device's share of a batch. If the problem has a view, the
    batch is a dictionary with "image", [N, H, W, C]; for the loss, the step
    adds "keys", one random key [N] per image for the networks.
  """
  mean = lambda tree: tree if axis_name is None else lax.pmean(tree, axis_name)

  def step(state: State, batch: Any) -> tuple[State, jax.Array]:
    if problem.view is not None:
      key, images = jax.random.wrap_key_data(state.key), batch["image"]
      keys = image_keys(key, state.step, len(images), axis_name)
      drawn = augment.random_view(keys, images, problem.view, crop=problem.crop)
      own = augment.fold_each(keys, _NETWORK)
      batch = batch | {"image": drawn, "keys": own}
    # Differentiate the local loss, then average.
    differentiate = jax.value_and_grad(problem.loss, has_aux=True)
    (loss, variables), gradients = differentiate(
      state.params, state.variables, batch
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


def run(
  problem: Problem,
  trainings: Sequence[Training],
  mesh: Mesh,
  *,
  saved: Saved,
  save_every_epochs: int | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> Counts:
  """Runs one training after the other, resuming from what is saved.

  Args:
    problem: shared by all trainings; its step is compiled once.
    trainings: in the order in which they are saved.
    mesh: devices that share each batch.
    saved: where to save progress.
    save_every_epochs: how often to save the state of an unfinished training; it
      is also saved when `progress` raises `Stopped`. None saves only finished
      trainings, as needed if `after_epoch` collects results.
    progress: called after each step with the finished and the total number of
      steps; may raise.

  Returns:
    The figures of every training.
  """
  step_fn = parallel.map_step(make_step(problem, parallel.AXIS), mesh)
  total = sum(training.steps for training in trainings)
  rows = saved.counts()

  def save(state: State) -> None:
    if save_every_epochs is not None:
      saved.save(rows, _kept(problem, state))

  for i in range(len(rows), len(trainings)):
    training, before = trainings[i], sum(x.steps for x in trainings[:i])
    state = _resume(problem, saved, training.create(), mesh)
    batches = training.batches(start := int(state.step))
    loss = None
    for number in range(start + 1, training.steps + 1):
      # The host runs one step ahead of the devices, not more.
      jax.block_until_ready(loss)
      state, loss = step_fn(state, next(batches))
      try:
        if progress is not None:
          progress(before + number, total)
      except Stopped:
        save(state)
        raise
      epoch, rest = divmod(number, training.steps_per_epoch)
      if rest:
        continue
      training.after_epoch(state)
      if epoch < training.epochs and epoch % (save_every_epochs or 1) == 0:
        save(state)
    rows.append(training.figures(state))
    saved.save(rows)
  return rows


def _kept(problem: Problem, state: State) -> State:
  """The parts of a state that must be saved."""
  return state.replace(variables=None) if problem.is_fixed else state


def _resume(problem: Problem, saved: Saved, state: State, mesh: Mesh) -> State:
  """A training's saved or initial state, on the devices."""
  # Copy, since the step donates the buffers of its state.
  state = jax.tree.map(lambda x: jnp.array(x, copy=True), state)
  state = parallel.replicate(state, mesh)
  restored = saved.restore(_kept(problem, state))
  if problem.is_fixed:
    restored = restored.replace(variables=state.variables)
  return restored


def repetition_seed(seed: int, repetition: int) -> int:
  """A seed in [0, 2^31), very likely different for each pair of arguments."""
  sequence = np.random.SeedSequence([seed, repetition])
  return int(sequence.generate_state(1)[0] >> 1)


def spread(name: str, each: Sequence[float]) -> dict[str, Any]:
  """Summarises a figure over several repetitions.

  Args:
    name: name of the figure.
    each: its value in each repetition.

  Returns:
    The mean under `name`, the sample standard deviation (0 for one repetition)
    under `<name>_std`, and the values under `<name>_each`.
  """
  return {
    name: float(np.mean(each)),
    f"{name}_std": float(np.std(each, ddof=1)) if each[1:] else 0.0,
    f"{name}_each": list(each),
  }
