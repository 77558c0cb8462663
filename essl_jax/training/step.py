"""The train step: a pure function of one device's share of a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from essl_jax.augment import ViewRequest
from essl_jax.training import applying, gradient_cache
from essl_jax.training import views as views_lib
from essl_jax.training.problem import Problem

Metrics = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
  """Everything that training changes, and the seed of all random draws.

  Attributes:
    step: int32 scalar, steps done.
    seed: uint32 scalar.
    params: float32 parameters by network.
    batch_stats: float32 running statistics by network.
    opt_state: the optimiser's.
    target: `params` and `batch_stats` of the target network; None without one.
    extra: the method's own state; None without any.
  """

  step: jax.Array
  seed: jax.Array
  params: Any
  batch_stats: Any
  opt_state: optax.OptState
  target: Any = None
  extra: Any = None


def make_create_state(
  problem: Problem, *, requests: Sequence[ViewRequest], channels: int = 3
) -> Callable[[jax.Array], TrainState]:
  """Makes the function that creates the initial state from a seed.

  Args:
    problem: what is trained.
    requests: the views; see `views.union`.
    channels: of the images.

  Returns:
    A compiled function from a uint32 seed to the state at step 0: parameters,
    statistics and optimiser state.
  """

  def init(seed: jax.Array) -> TrainState:
    labels = problem.networks.needs_labels
    views = views_lib.blank(requests, channels, labels=labels)
    variables = problem.networks.init(
      jax.random.key(seed), views.images, views.targets, train=False
    )
    params = variables["params"]
    state = TrainState(
      step=jnp.zeros((), jnp.int32),
      seed=seed,
      params=params,
      batch_stats=variables.get("batch_stats", {}),
      opt_state=problem.optimizer.init(params),
    )
    return begin(state, problem.networks.method)

  return jax.jit(init)


def create_state(
  problem: Problem,
  *,
  seed: int,
  requests: Sequence[ViewRequest],
  channels: int = 3,
) -> TrainState:
  """The state at step 0; takes the arguments of `make_create_state`, a seed."""
  create = make_create_state(problem, requests=requests, channels=channels)
  return create(jnp.asarray(seed, jnp.uint32))


def begin(state: TrainState, method: Any) -> TrainState:
  """Adds the method's own state, made from the state's parameters.

  Args:
    state: at step 0.
    method: a `methods.method.Method`.

  Returns:
    The state with the method's own state and, if it has `target_heads`, a
    target network that is a copy of the trained one.
  """
  state = state.replace(extra=method.initial_extra(state.params))
  if method.target_heads is None:
    return state
  copy = lambda tree: jax.tree.map(jnp.copy, _of_target(tree, method))
  target = {
    "params": copy(state.params),
    "batch_stats": copy(state.batch_stats),
  }
  return state.replace(target=target)


def _of_target(tree: Any, method: Any) -> dict[str, Any]:
  """The parts of a tree that the target has: the encoder and its heads."""
  names = ("encoder", *method.target_heads)
  return {name: tree[name] for name in names if name in tree}


def make_train_step(
  problem: Problem, prepare: views_lib.Prepare
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
  """Builds the pure step `(state, batch) -> (state, metrics)`.

  With `axis_name`, the step sees one device's share. n devices compute the same
  loss, gradients and statistics as one device with the whole batch. A module's
  own `nn.Dropout` is the exception: it draws once for a device's share, or for
  a micro-batch; the `image_keys` of `Networks` draw for each image.

  Args:
    problem: what is trained, with batch norm over the same `axis_name`.
    prepare: makes the views of a batch; see `views.make_views`.

  Returns:
    The step. Its metrics are float32 scalars, equal on all devices: `loss`,
    `loss_ssl`, what the method adds, `loss_<section>` and more of each term,
    `gradient_norm` and `learning_rate`.
  """

  def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
    # The scopes only name operations in a profile.
    with jax.named_scope("augmentation"):
      views = prepare(state, batch)
    # Views may hold nothing but transformed copies, several of each image.
    examples = min(x.shape[0] for x in jax.tree.leaves(batch))
    # The local loss is differentiated, then averaged; see `losses`.
    gradients, metrics, found, statistics = gradient_cache.gradients(
      problem.forward(state),
      problem.objective(state, views.targets),
      state.params,
      (state.batch_stats, state.target and state.target["batch_stats"]),
      (views, problem.places(examples)),
      examples=examples,
      micro_batches=problem.micro_batches,
    )
    with jax.named_scope("exchange"):
      gradients, metrics = problem.mean(gradients), problem.mean(metrics)
    outputs = problem.outputs(state, found, views.targets)
    return _update(problem, state, gradients, metrics, outputs, statistics)

  return train_step


def _update(
  problem: Problem,
  state: TrainState,
  gradients: Any,
  metrics: Metrics,
  outputs: Any,
  statistics: tuple[Any, Any],
) -> tuple[TrainState, Metrics]:
  """The next state and all metrics, from values averaged over devices."""
  method = problem.networks.method
  with jax.named_scope("optimizer"):
    updates, opt_state = problem.optimizer.update(
      gradients, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    params, extra = method.after_update(
      params, outputs, axis_name=problem.axis_name
    )
  with jax.named_scope("metrics"):
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    metrics["learning_rate"] = problem.schedule(state.step)
    metrics |= method.metrics(outputs, problem.mean)
  new_state = state.replace(
    step=state.step + 1,
    params=params,
    batch_stats=statistics[0],
    opt_state=opt_state,
    target=_move_target(problem, state, params, statistics[1]),
    extra=extra,
  )
  return new_state, metrics


@jax.named_scope("target")
def _move_target(
  problem: Problem, state: TrainState, params: Any, batch_stats: Any
) -> Any:
  """The target network after a step; None if there is none."""
  if state.target is None:
    return None
  method = problem.networks.method
  part = method.target_momentum(state.step, problem.total_steps)
  moved = jax.tree.map(
    lambda old, new: part * old + (1 - part) * new,
    state.target["params"],
    _of_target(params, method),
  )
  return {"params": moved, "batch_stats": batch_stats}


def make_encode(
  encoder: Any, features: str = applying.OUTPUT
) -> Callable[[Any, jax.Array], jax.Array]:
  """Makes the frozen encoder: `(variables, images) -> features`.

  Args:
    encoder: a Flax module, such as `networks.encoder`.
    features: their kind; see `applying.read`.

  Returns:
    A pure function from the encoder's own variables and normalised images
    [N, H, W, C] to float32 features [N, F], in evaluation mode.
  """
  apply = applying.make_apply(encoder, train=False, features=features)

  def encode(variables: Any, images: jax.Array) -> jax.Array:
    return apply(variables, images).astype(jnp.float32)

  return encode


def encoder_variables(
  state: TrainState, network: str = "online"
) -> dict[str, Any]:
  """Takes the encoder's parameters, if any, and statistics from a train state.

  Args:
    state: any train state.
    network: `online`, the trained network, or `target`.

  Returns:
    The variables of that network's encoder.
  """
  of_online = {"params": state.params, "batch_stats": state.batch_stats}
  networks = state.target if network == "target" else of_online
  found = {"params": networks["params"].get("encoder", {})}
  if "encoder" in networks["batch_stats"]:
    found["batch_stats"] = networks["batch_stats"]["encoder"]
  return found
