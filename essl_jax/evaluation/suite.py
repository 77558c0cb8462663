"""What a run measures: the kNN monitor, and all figures at the end."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from essl_jax import experiment as experiment_lib
from essl_jax import parallel, transformations
from essl_jax import step as step_lib
from essl_jax.errors import UsageError
from essl_jax.evaluation import features, knn, linear_probe, transformation

_BATCH = 256  # images a device encodes at once


class Suite:
  """Measures of the states of one experiment; compiles each part once."""

  def __init__(self, experiment: experiment_lib.Experiment):
    self._experiment = experiment
    self._encode = step_lib.make_encode(experiment.networks.encoder)
    self._mapped_encode = parallel.map_examples(self._encode, experiment.mesh)
    view = experiment.config.views.first
    self._pixels: dict[str, Any] = {"mean": view.mean, "std": view.std}
    is_sized = experiment.source.image_shape[:2] == (view.size, view.size)
    self._resize = None if is_sized else (view.size, view.size)

  def features(
    self,
    state: step_lib.TrainState,
    split: str,
    interrupt: Callable[[], None] = lambda: None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a split: features float32 [N, F] and labels int32 [N].

    Args:
      state: whose encoder.
      split: "train" or "test".
      interrupt: called before every batch; may raise.

    Returns:
      Features and labels.
    """
    mesh = self._experiment.mesh

    def place(images: np.ndarray) -> jax.Array:
      interrupt()
      return parallel.shard_copies(images, mesh)

    encoded, labels = features.extract(
      self._mapped_encode,
      step_lib.encoder_variables(state),
      self._experiment.source,
      split,
      batch_size=_BATCH * mesh.size,
      resize=self._resize,
      place=place,
      **self._pixels,
    )
    if labels.min() < 0:
      raise UsageError(
        f"the {split} images of {self._experiment.config.data.name} have no"
        " labels, which kNN and probe need: set config.data.train_split and"
        " config.data.test_split to labelled splits"
      )
    return encoded, labels

  def _place(self, batch: np.ndarray) -> jax.Array:
    """Spreads a batch over the devices; copies one that cannot be divided."""
    mesh = self._experiment.mesh
    if len(batch) % mesh.size:
      return parallel.replicate(batch, mesh)
    return parallel.shard_copies(batch, mesh)

  def knn(
    self,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
  ) -> dict[str, Any]:
    """Classifies the test features by their neighbours in the training's."""
    config = self._experiment.config
    return knn.run(
      *train,
      *test,
      num_classes=self._experiment.source.num_classes,
      k=config.knn.k,
      temperature=config.knn.temperature,
    )

  def monitor(self, state: step_lib.TrainState) -> dict[str, float]:
    """The kNN accuracy of a state, percent."""
    figures = self.knn(
      self.features(state, "train"), self.features(state, "test")
    )
    return {name: figures[name] for name in figures if "top" in name}

  def run(
    self,
    state: step_lib.TrainState,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    progress: Callable[[int, int], None] | None = None,
    *,
    has_head: bool = True,
  ) -> dict[str, dict[str, Any]]:
    """All figures of a state, each with its protocol.

    Args:
      state: what to measure.
      train: its features of the training split, from `features`.
      test: of the test split.
      progress: told the steps of a long probe, done and in all.
      has_head: whether the transformation head has been trained at all.

    Returns:
      `knn`, and where they apply `transformation` and `linear_probe`.
    """
    config = self._experiment.config
    splits = {
      "train_split": config.data.train_split,
      "test_split": config.data.test_split,
    }
    knn_protocol = splits | {"augmentation": "none"}
    figures = {"knn": self.knn(train, test) | knn_protocol}
    if config.equivariance.weight > 0 and has_head:
      transformed = self.transformation(state)
      split = {"test_split": config.data.test_split}
      figures["transformation"] = transformed | split
    if config.probe.protocol != "none":
      probe = linear_probe.run(
        self._encode,
        step_lib.encoder_variables(state),
        self._experiment.source,
        protocol=config.probe.protocol,
        image_size=config.views.first.size,
        resize=self._resize,
        train=train,
        test=test,
        place=self._place,
        progress=progress,
        epochs=config.probe.epochs,
        batch_size=config.probe.batch_size,
        learning_rate=config.probe.learning_rate,
        repetitions=config.probe.repetitions,
        seed=config.seed,
        **self._pixels,
      )
      figures["linear_probe"] = probe | splits
    return figures

  def transformation(self, state: step_lib.TrainState) -> dict[str, Any]:
    """Accuracy of the prediction head on the test images, percent."""
    experiment = self._experiment
    config = experiment.config
    group = transformations.GROUPS[config.equivariance.group]
    predict = parallel.map_examples(
      transformation.make_predict(
        experiment.networks, group, config.views.third
      ),
      experiment.mesh,
    )
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    size = max(1, _BATCH // group.num_classes) * experiment.mesh.size
    hits, first = [], 0
    for batch in experiment.source.evaluation_batches("test", size):
      images = batch["image"]
      rest = ((0, size - len(images)), (0, 0), (0, 0), (0, 0))
      padded = np.pad(images, rest)
      keys = transformation.image_keys(config.seed, first, size)
      placed = parallel.shard_copies(
        (padded, np.asarray(keys)), experiment.mesh
      )
      hits.append(np.asarray(predict(variables, placed))[: len(images)])
      first += len(images)
    recognised = np.concatenate(hits)
    return {
      "transformation_accuracy": 100 * float(recognised.mean()),
      "per_element": [100 * float(x) for x in recognised.mean(axis=0)],
      "group": group.name,
      "images": int(len(recognised)),
      "augmentation": "one third-view crop an image",
    }
