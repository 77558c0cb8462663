"""Fits a head, alone or with the network below it: one step and one loop.

Linear probes, fine-tuning and regressions are this training. They differ in
their `Problem`, what is minimised, and in what each `Training` measures.
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

_NETWORK = 2**31 - 1  # no other use of an image's key has this number


class State(flax.struct.PyTreeNode):
  """The state of a training, and the seed of its random draws.

  Attributes:
    step: int32 scalar, steps done.
    key: uint32 data of a random key.
    params: what is trained.
    variables: what is not: moving statistics, or a network that stays fixed.
    opt_state: the optimiser's.
  """

  step: jax.Array
  key: jax.Array
  params: Any
  variables: Any
  opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Problem:
  """What is trained, and how.

  Attributes:
    loss: `(params, variables, batch) -> (mean loss, variables)` of one device's
      share of a batch.
    optimizer: of the params.
    view: augments the batch's "image" before; None leaves batches as they are.
    crop: whether the view crops, too; False where the host has.
    is_fixed: whether training leaves the variables as they are; they are not
      saved then.
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
    batches: endless global batches, sharded, from a step on.
    epochs: how many.
    steps_per_epoch: of each.
    figures: the row of numbers that a trained state gives.
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
    """Of all epochs."""
    return self.epochs * self.steps_per_epoch


def make_step(
  problem: Problem, axis_name: str | None = None
) -> Callable[[State, Any], tuple[State, jax.Array]]:
  """Builds the pure step `(state, batch) -> (state, loss)`.

  Args:
    problem: what is trained.
    axis_name: mapped axis, over which gradients are averaged.

  Returns:
    The step of one device's share of a batch. Where the problem has a view,
    that is a dictionary with "image", [N, H, W, C], and the loss finds in it
    also "keys", a random key [N] per image for the networks.
  """
  mean = lambda tree: tree if axis_name is None else lax.pmean(tree, axis_name)

  def step(state: State, batch: Any) -> tuple[State, jax.Array]:
    if problem.view is not None:
      key, images = jax.random.wrap_key_data(state.key), batch["image"]
      keys = image_keys(key, state.step, len(images), axis_name)
      drawn = augment.random_view(keys, images, problem.view, crop=problem.crop)
      own = augment.fold_each(keys, _NETWORK)
      batch = batch | {"image": drawn, "keys": own}
    # The local loss is differentiated, then averaged.
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
  """Runs one training after the other, going on from what is saved.

  Args:
    problem: of all of them; its step is compiled once.
    trainings: in the order in which they are saved.
    mesh: of the devices that share each batch.
    saved: where to leave what is done.
    save_every_epochs: how often the state of an unfinished training is left
      there; also where `progress` raises `Stopped`. None leaves finished ones
      alone, as what `after_epoch` gathers needs.
    progress: called after each step with the steps done and in all; may raise.

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
  """The parts of a state that have to be saved."""
  return state.replace(variables=None) if problem.is_fixed else state


def _resume(problem: Problem, saved: Saved, state: State, mesh: Mesh) -> State:
  """A training's state as it was saved, or as it begins, on the devices."""
  # Copies, for the step gives the buffers of its state away.
  state = jax.tree.map(lambda x: jnp.array(x, copy=True), state)
  state = parallel.replicate(state, mesh)
  restored = saved.restore(_kept(problem, state))
  if problem.is_fixed:
    restored = restored.replace(variables=state.variables)
  return restored


def repetition_seed(seed: int, repetition: int) -> int:
  """Seeds in [0, 2^31) that no two pairs of arguments are likely to share."""
  sequence = np.random.SeedSequence([seed, repetition])
  return int(sequence.generate_state(1)[0] >> 1)


def spread(name: str, each: Sequence[float]) -> dict[str, Any]:
  """A figure of several repetitions.

  Args:
    name: of the figure.
    each: its value in each repetition.

  Returns:
    The mean under `name`, with `_std`, the sample standard deviation (0 for
    one), and `_each`.
  """
  return {
    name: float(np.mean(each)),
    f"{name}_std": float(np.std(each, ddof=1)) if each[1:] else 0.0,
    f"{name}_each": list(each),
  }
