"""A regressor for densities of states, and its training."""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from essl_jax import augment
from essl_jax.data.order import Stream
from essl_jax.devices import parallel
from essl_jax.evaluation import fitting
from essl_jax.evaluation.saved import Counts
from essl_jax.photonics import density as density_lib
from essl_jax.photonics.density import NUM_TARGETS
from essl_jax.photonics.encoder import DensityRegressor
from essl_jax.photonics.source import LabelledCells
from essl_jax.training import norms

EMPTY_LATTICE = density_lib.empty_lattice()[:NUM_TARGETS].astype(np.float32)
"""The density of states of free space, [400]."""
PICTURED = 4
"""Number of test cells whose predictions are kept for a picture."""
_CHUNK = 256  # cells that a device predicts at once


@dataclasses.dataclass(frozen=True)
class Problem:
  """A regressor to train.

  Attributes:
    model: the regressor, with batch norms over `parallel.AXIS`.
    encoder: initial variables of the encoder; None starts from random ones.
    cells: labelled cells by split: `train`, `validation` and `test`.
    settings: settings of the training.
    view: augments and normalises the training cells.
  """

  model: DensityRegressor
  encoder: Any
  cells: Mapping[str, LabelledCells]
  settings: Any
  view: augment.View

  def train(self, variables: Any, images: jax.Array) -> tuple[Any, Any]:
    """Predicts in training mode; also returns the updated statistics."""
    with norms.checked("give a larger config.regression.batch_size"):
      return self.model.apply(
        variables,
        images,
        train=True,
        mutable=[name for name in variables if name != "params"],
      )

  def check_norms(self, mesh: Mesh) -> None:
    """Raises UsageError if a batch norm would see a single value."""
    size = self.settings.batch_size
    if norms.are_fed(size, mesh):
      return  # no need to trace the model
    shape = self.cells["train"].image.shape[1:]
    images = jax.ShapeDtypeStruct((size, *shape), jnp.float32)
    init = functools.partial(self.model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    norms.check_batch(self.train, variables, images, mesh)

  @property
  def optimizer(self) -> optax.GradientTransformation:
    """PyTorch's Adam, which adds weight decay to the gradient."""
    return optax.chain(
      optax.add_decayed_weights(self.settings.weight_decay),
      optax.adam(self.settings.learning_rate),
    )


class Trainer:
  """Trains and measures regressors of one problem; compiles each part once.

  Attributes:
    create: `(seed, encoder) -> state` at step 0. The encoder starts from the
      variables `encoder`, or from random ones if that is None.
  """

  def __init__(self, problem: Problem, mesh: Mesh):
    """Places validation and test cells on the devices."""
    self._problem, self._mesh = problem, mesh
    self._predict = parallel.map_examples(self._apply, mesh)
    self.create = jax.jit(self._initial)
    self._measured = {
      split: _chunks(problem.cells[split].image, mesh)
      for split in ("validation", "test")
    }
    self._fitted = fitting.Problem(self._loss, problem.optimizer, problem.view)

  def train(self, runs: Iterable[tuple[int, int]], **options: Any) -> Counts:
    """Trains once for each number of labelled cells and seed.

    Args:
      runs: pairs of a number of cells, and a seed for cells, weights, order and
        augmentation. A seed's larger sets of cells contain its smaller ones.
      **options: `saved` and `progress` of `fitting.run`.

    Returns:
      For each run, one flat row: the validation error of every epoch, the test
      error of every epoch, and the densities of the first test cells at the
      best epoch.
    """
    trainings = [self._training(*each) for each in runs]
    return fitting.run(self._fitted, trainings, self._mesh, **options)

  def _training(self, count: int, seed: int) -> fitting.Training:
    size = self._problem.settings.batch_size
    epochs: list[tuple[float, float, np.ndarray]] = []

    def figures(_: fitting.State) -> tuple[float, ...]:
      validation, test, pictured = zip(*epochs, strict=True)
      best = pictured[int(np.argmin(validation))]
      # Rounded as in the file, so that a resumed evaluation reports the same.
      row = np.concatenate([validation, test, best]).astype(np.float32)
      return tuple(row.tolist())

    return fitting.Training(
      create=lambda: self.create(np.uint32(seed), self._problem.encoder),
      batches=lambda step: self._batches(count, size, seed, step),
      epochs=self._problem.settings.epochs,
      steps_per_epoch=count // size,
      figures=figures,
      after_epoch=lambda state: epochs.append(self._measure(state)),
    )

  def _measure(self, state: fitting.State) -> tuple[float, float, np.ndarray]:
    """Returns validation and test errors, and the first test densities."""
    variables = {"params": state.params, **state.variables}
    errors = []
    for split, chunks in self._measured.items():
      cells = self._problem.cells[split]
      # Dispatches all chunks before it copies out the first.
      found = [self._predict(variables, chunk) for chunk in chunks]
      together = np.concatenate([np.asarray(x) for x in found])
      predicted = together[: len(cells)] + EMPTY_LATTICE[None]
      errors.append(density_lib.relative_error(predicted, cells.density))
    if not np.isfinite(errors).all():
      raise FloatingPointError(
        "the regression diverged: lower config.regression.learning_rate"
      )
    return errors[0], errors[1], predicted[:PICTURED].flatten()

  def _batches(
    self, count: int, size: int, seed: int, start_step: int
  ) -> Iterator[Any]:
    """Yields endless batches of a seed's cells."""
    cells = self._problem.cells["train"]
    rows = np.random.default_rng(seed).permutation(len(cells))[:count]
    targets = cells.density[rows] - EMPTY_LATTICE
    held = {"image": cells.image[rows], "target": targets}
    indices = Stream(count, size, seed, start_step).rows()
    return parallel.stream_from_memory(held, indices, self._mesh)

  def _initial(self, seed: jax.Array, encoder: Any) -> fitting.State:
    """Makes the state at step 0."""
    problem = self._problem
    weights, views = jax.random.split(jax.random.key(seed))
    shape = problem.cells["train"].image.shape[1:]
    cells = jnp.zeros((1, *shape), jnp.float32)
    variables = dict(problem.model.init(weights, cells, train=False))
    if encoder is not None:
      for kind, values in encoder.items():
        variables[kind] = {**variables[kind], "encoder": values}
    return self._fitted.begin(views, variables.pop("params"), variables)

  def _loss(
    self, params: Any, statistics: Any, batch: dict[str, jax.Array]
  ) -> tuple[jax.Array, Any]:
    """Computes the squared error on densities minus that of free space."""
    predicted, statistics = self._problem.train(
      {"params": params, **statistics}, batch["image"]
    )
    return jnp.mean((predicted - batch["target"]) ** 2), statistics

  def _apply(self, variables: Any, images: jax.Array) -> Any:
    """Applies the frozen regressor: cells [N, H, H, 1] to outputs [N, 400]."""
    view = self._problem.view
    images = augment.normalize(images, view.mean, view.std)
    return self._problem.model.apply(variables, images, train=False)


def _chunks(images: np.ndarray, mesh: Mesh) -> list[jax.Array]:
  """Places the images on the devices, in chunks of equal shape."""
  share = min(_CHUNK, -(-len(images) // mesh.size))
  size = share * mesh.size
  rest = ((0, -len(images) % size), (0, 0), (0, 0), (0, 0))
  padded = np.pad(images, rest)
  return [
    parallel.shard_copies(padded[i : i + size], mesh)
    for i in range(0, len(padded), size)
  ]
