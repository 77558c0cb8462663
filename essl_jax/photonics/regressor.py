"""A regressor of densities of states: what it is, its step, one training."""

from collections.abc import Callable, Mapping
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
from essl_jax.data import order
from essl_jax.devices import parallel
from essl_jax.photonics import density as density_lib
from essl_jax.photonics.encoder import DensityRegressor
from essl_jax.photonics.source import POINTS, LabelledCells
from essl_jax.training.views import image_keys

EMPTY_LATTICE = density_lib.empty_lattice()[:POINTS].astype(np.float32)
"""The density of states of free space, [400]."""
PICTURED = 4
"""Test cells whose predictions are kept for a picture."""
_CHUNK = 256  # cells that a device predicts at once


class State(flax.struct.PyTreeNode):
  """All that the training changes, and the seed of all that it draws.

  Attributes:
    step: int32 scalar, steps done.
    key: uint32 data of a random key.
    variables: of a `DensityRegressor`: `params` and `batch_stats`.
    opt_state: the optimiser's.
  """

  step: jax.Array
  key: jax.Array
  variables: dict[str, Any]
  opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Problem:
  """A regressor to be trained.

  Attributes:
    model: its batch norms over `parallel.AXIS`.
    encoder: variables to begin with; None begins at random.
    cells: labelled ones by split: `train`, `validation` and `test`.
    settings: how it is trained.
    view: augments and normalises the training cells.
  """

  model: DensityRegressor
  encoder: Any
  cells: Mapping[str, LabelledCells]
  settings: Any
  view: augment.View

  @property
  def optimizer(self) -> optax.GradientTransformation:
    """PyTorch's Adam, whose decay joins the gradient."""
    return optax.chain(
      optax.add_decayed_weights(self.settings.weight_decay),
      optax.adam(self.settings.learning_rate),
    )


def relative_error(predicted: np.ndarray, density: np.ndarray) -> float:
  """The measure of the paper: mean over cells of sum |p - y| / sum |y|.

  Both sums run over the points 100 to 399.

  Args:
    predicted: densities of states p, [N, 400].
    density: the true ones y, [N, 400].

  Returns:
    The error as a part, 0.05 for 5%.

  Raises:
    ValueError: the shapes differ or are not [N, 400].

  Example:
    >>> ones = np.ones((2, 400))
    >>> print(round(relative_error(1.1 * ones, ones), 6))
    0.1
  """
  if predicted.shape != density.shape or predicted.shape[1:] != (POINTS,):
    raise ValueError(
      f"densities must be [N, {POINTS}], got {predicted.shape} and"
      f" {density.shape}"
    )
  return density_lib.relative_error(predicted, density)


class Trainer:
  """Trains and measures regressors of one problem; compiles each part once."""

  def __init__(self, problem: Problem, mesh: Mesh):
    """Places the cells that are measured on the devices."""
    self._problem, self._mesh = problem, mesh
    self._step = parallel.map_step(make_step(problem, parallel.AXIS), mesh)
    self._predict = parallel.map_examples(_make_predict(problem), mesh)
    self._create = jax.jit(self._initial)
    self._measured = {
      split: _chunks(problem.cells[split].image, mesh)
      for split in ("validation", "test")
    }

  def train(
    self, count: int, seed: int, tick: Callable[[int], None]
  ) -> tuple[float, ...]:
    """One repetition.

    Args:
      count: of labelled cells; a seed's smaller sets are in its larger ones.
      seed: of cells, weights, order and augmentation.
      tick: called after each step with the steps done.

    Returns:
      The validation error of every epoch, the test error of every epoch, and
      the densities of the first test cells at the best epoch, flattened.
    """
    problem, settings = self._problem, self._problem.settings
    state = self._create(np.uint32(seed), problem.encoder)
    state = parallel.replicate(state, self._mesh)
    batches, steps = self._batches(count, seed)
    curves: list[list[float]] = []
    kept = np.zeros(0)
    loss = None
    for number in range(1, settings.epochs * steps + 1):
      # The host runs one step ahead of the devices, not more.
      jax.block_until_ready(loss)
      state, loss = self._step(state, next(batches))
      tick(number)
      if number % steps:
        continue
      predicted = {x: self.predict(state, x) for x in ("validation", "test")}
      errors = [
        relative_error(values, problem.cells[split].density)
        for split, values in predicted.items()
      ]
      if not np.isfinite(errors).all():
        raise FloatingPointError(
          "the regression diverged: lower config.regression.learning_rate"
        )
      if errors[0] < min((other[0] for other in curves), default=np.inf):
        kept = predicted["test"][:PICTURED]
      curves.append(errors)
    figures = np.concatenate([np.transpose(curves).ravel(), kept.ravel()])
    # Rounded as they are kept, so that a resumed evaluation reports the same.
    return tuple(figures.astype(np.float32).tolist())

  def predict(self, state: State, split: str) -> np.ndarray:
    """Densities of states of a split, float32 [N, 400]."""
    found = [self._predict(state.variables, x) for x in self._measured[split]]
    together = np.concatenate([np.asarray(x) for x in found])
    return together[: len(self._problem.cells[split])] + EMPTY_LATTICE[None]

  def _batches(self, count: int, seed: int) -> tuple[Any, int]:
    """Endless batches of the cells of a seed, and steps per epoch."""
    cells = self._problem.cells["train"]
    rows = np.random.default_rng(seed).permutation(len(cells))[:count]
    chosen = cells.take(rows)
    size = batch_size(self._problem.settings, count, self._mesh)
    held = {"image": chosen.image, "target": chosen.density - EMPTY_LATTICE}
    indices = order.batch_indices(count, count // size, size, seed, 0)
    batches = parallel.stream_from_memory(held, indices, self._mesh)
    return batches, count // size

  def _initial(self, seed: jax.Array, encoder: Any) -> State:
    """The state at step 0."""
    problem = self._problem
    weights, views = jax.random.split(jax.random.key(seed))
    cells = jnp.zeros((1, *problem.cells["train"].image.shape[1:]))
    variables = dict(problem.model.init(weights, cells, train=False))
    if encoder is not None:
      for kind, values in encoder.items():
        variables[kind] = {**variables[kind], "encoder": values}
    return State(
      step=jnp.zeros((), jnp.int32),
      key=jax.random.key_data(views),
      variables=variables,
      opt_state=problem.optimizer.init(variables["params"]),
    )


def make_step(
  problem: Problem, axis_name: str | None = None
) -> Callable[[State, dict[str, jax.Array]], tuple[State, jax.Array]]:
  """Builds the pure step `(state, batch) -> (state, loss)`.

  Args:
    problem: what is trained.
    axis_name: mapped axis, over which gradients are averaged.

  Returns:
    The step of one device's share: "image" float32 [N, H, H, 1] and "target"
    float32 [N, 400], what the densities differ by from `EMPTY_LATTICE`.
  """
  mean = lambda tree: tree if axis_name is None else lax.pmean(tree, axis_name)

  def step(
    state: State, batch: dict[str, jax.Array]
  ) -> tuple[State, jax.Array]:
    key = jax.random.wrap_key_data(state.key)
    keys = image_keys(key, state.step, len(batch["target"]), axis_name)
    images = augment.random_view(keys, batch["image"], problem.view)
    params = state.variables["params"]
    statistics = {k: v for k, v in state.variables.items() if k != "params"}

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
      predicted, updates = problem.model.apply(
        {"params": params, **statistics},
        images,
        train=True,
        mutable=list(statistics),
      )
      return jnp.mean((predicted - batch["target"]) ** 2), updates

    # The local loss is differentiated, then averaged.
    (loss, updates), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
      params
    )
    changes, opt_state = problem.optimizer.update(
      mean(gradients), state.opt_state, params
    )
    params = optax.apply_updates(params, changes)
    return state.replace(
      step=state.step + 1,
      variables={"params": params, **updates},
      opt_state=opt_state,
    ), mean(loss)

  return step


def _make_predict(problem: Problem) -> Callable[[Any, jax.Array], jax.Array]:
  """The frozen regressor: `(variables, cells [N, H, H, 1]) -> [N, 400]`."""
  view = problem.view

  def predict(variables: Any, images: jax.Array) -> jax.Array:
    images = augment.normalize(images, view.mean, view.std)
    predicted = problem.model.apply(variables, images, train=False)
    return jnp.asarray(predicted)

  return predict


def _chunks(images: np.ndarray, mesh: Mesh) -> list[jax.Array]:
  """The images on the devices, a chunk at a time, all of one shape."""
  share = min(_CHUNK, -(-len(images) // mesh.size))
  size = share * mesh.size
  rest = ((0, -len(images) % size), (0, 0), (0, 0), (0, 0))
  padded = np.pad(images, rest)
  return [
    parallel.shard_copies(padded[i : i + size], mesh)
    for i in range(0, len(padded), size)
  ]


def batch_size(settings: Any, count: int, mesh: Mesh) -> int:
  """What the settings say, or all of fewer cells that the devices divide."""
  return min(settings.batch_size, count - count % mesh.size)
