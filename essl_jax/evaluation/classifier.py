"""Linear classifiers on random crops, with a frozen or trained encoder.

The linear probe and fine-tuning share this training of a linear layer on
features of random crops. They differ in what is trained besides the layer.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
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
from essl_jax.evaluation.saved import Saved
from essl_jax.storage import places


@dataclasses.dataclass(frozen=True)
class Features:
  """The features that a linear layer classifies.

  Attributes:
    compute: `(params, variables, normalised images, keys) -> (features [N,
      width], variables)`; the params contain `head`, the layer, and `trained`.
    width: width of the features.
    trained: initial params besides those of the layer; if empty, training does
      not change the variables.
    variables: initial variables.
    test: gives features [M, width] and labels [M] of the test images for a
      state.
    fingerprint: hash of the initial encoder.
  """

  compute: Callable[[Any, Any, jax.Array, Any], tuple[jax.Array, Any]]
  width: int
  trained: dict[str, Any]
  variables: Any
  test: Callable[[fitting.State], tuple[np.ndarray, np.ndarray]]
  fingerprint: str


@dataclasses.dataclass(frozen=True)
class Setup:
  """Settings that the classifiers of a run share.

  Attributes:
    view: the random crops; also flips and normalises.
    mesh: devices that share each batch.
    seed: seed of weights, order and augmentation of all repetitions.
    workdir: where progress is saved, in `probe/`; if None, nowhere.
    circumstances: further settings that decide the figures, for the report.
  """

  view: augment.View
  mesh: Mesh
  seed: int = 0
  workdir: places.Path | None = None
  circumstances: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Classifier:
  """Trains a linear layer on features of random crops.

  Attributes:
    name: name of the file in `probe/`.
    features: features of images.
    source: training images; an incomplete last batch is dropped.
    setup: see `Setup`.
    recipe: recipe with a batch size that devices and images allow.
    optimizer: optimiser of all params.
  """

  name: str
  features: Features
  source: Source
  setup: Setup
  recipe: Recipe
  optimizer: optax.GradientTransformation

  def run(
    self, figure: str, protocol: dict[str, Any], **options: Any
  ) -> dict[str, Any]:
    """Trains all repetitions of the recipe, resuming from what is saved.

    Args:
      figure: prefix of the names of the figures.
      protocol: settings that decide the figures, besides the encoder and the
        setup's circumstances; `num_test` is read.
      **options: `save_every_epochs` and `progress` of `fitting.run`.

    Returns:
      The figures of `linear_layer.summarise` and the protocol.
    """
    folder, mesh = self.setup.workdir, self.setup.mesh
    path = folder / "probe" / f"{self.name}.npz" if folder else None
    saved = Saved(path, mesh)
    protocol = protocol | dict(self.setup.circumstances)
    saved.claim(protocol | {"encoder": self.features.fingerprint})
    repetitions = [
      self._training(fitting.repetition_seed(self.setup.seed, i))
      for i in range(self.recipe.repetitions)
    ]
    counts = fitting.run(
      self._problem, repetitions, mesh, saved=saved, **options
    )
    number, classes = protocol["num_test"], self.source.num_classes
    return linear_layer.summarise(counts, number, classes, figure) | protocol

  @functools.cached_property
  def _problem(self) -> fitting.Problem:
    return fitting.Problem(
      self._loss,
      self.optimizer,
      self.setup.view,
      crop=not self.source.differs_in_size,  # else the host crops
      is_fixed=not self.features.trained,
    )

  def _loss(
    self, params: Any, variables: Any, batch: Any
  ) -> tuple[jax.Array, Any]:
    found, variables = self.features.compute(
      params, variables, batch["image"], batch["keys"]
    )
    return linear_layer.loss(params["head"], found, batch["label"]), variables

  def _training(self, seed: int) -> fitting.Training:
    """One repetition."""
    features, source, recipe = self.features, self.source, self.recipe
    view, mesh = self.setup.view, self.setup.mesh

    def create() -> fitting.State:
      weights, views = jax.random.split(jax.random.key(seed))
      head = linear_layer.initial_layer(
        weights, features.width, source.num_classes, recipe.initial_std
      )
      params = {"head": head, **features.trained}
      return self._problem.begin(views, params, features.variables)

    def batches(start_step: int) -> Iterator[Any]:
      crops: dict[str, Any] = {"crops": {"image": view}}
      shares = source.batches(
        batch_size=recipe.batch_size,
        seed=seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **({} if self._problem.crop else crops),
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


def train_view(
  size: int, mean: Any, std: Any, interpolation: str = "bicubic"
) -> augment.View:
  """Random crops of 8% to all of an image, and flips.

  Args:
    size: side of the crops.
    mean: mean of the channels, in [0, 1].
    std: standard deviation of the channels.
    interpolation: `bilinear` or `bicubic`.

  Returns:
    The view, like torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`.
  """
  return augment.View(
    size=size,
    scale=(0.08, 1.0),
    interpolation=interpolation,
    jitter_probability=0.0,
    grayscale=0.0,
    mean=mean,
    std=std,
  )


def describe_view(view: augment.View) -> str:
  """A training view in words, for protocols."""
  return (
    f"RandomResizedCrop {view.size} {view.interpolation} scale {view.scale}, "
    f"horizontal flip {view.flip:g}"
  )


def setup(
  bench: Any,
  interpolation: str,
  resize: tuple[int, int] | None,
  circumstances: Mapping[str, Any] | None = None,
) -> Setup:
  """Makes the setup of a run, with crops of the first view's size.

  Args:
    bench: `bench.Bench`.
    interpolation: interpolation of the crops.
    resize: how the device resizes test images.
    circumstances: settings that decide the figures, besides the common ones.

  Returns:
    The setup.
  """
  experiment, config = bench.experiment, bench.experiment.config
  steps = []
  if experiment.labelled.differs_in_size:
    size = config.data.image_size
    shorter = config.data.resize_size or size
    steps.append(f"Resize {shorter} bilinear, CenterCrop {size}")
  if resize is not None:
    steps.append(f"Resize {resize[0]} bicubic, CenterCrop {resize[1]}")
  return Setup(
    view=train_view(
      config.views.first.size,
      **bench.encoding.pixels,
      interpolation=interpolation,
    ),
    mesh=experiment.mesh,
    seed=config.seed,
    workdir=bench.workdir,
    circumstances={
      **(circumstances or {}),
      "data": config.data.name,
      "precision": config.precision,
      "test_transform": ", ".join(steps) or "none",
      **bench.measured,
    },
  )
