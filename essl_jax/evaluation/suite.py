"""What a run measures: the kNN monitor, and all figures at the end."""

from collections.abc import Callable
import functools
import pathlib
from typing import Any

from essl_jax import experiment as experiment_lib
from essl_jax import parallel
from essl_jax import step as step_lib
from essl_jax.data import Source, subsets
from essl_jax.errors import UsageError
from essl_jax.evaluation import (
  features,
  finetune,
  knn,
  linear_probe,
  transformation,
)
from essl_jax.evaluation.linear_probe import Labelled
from essl_jax.evaluation.recipe import Recipe

_BATCH = 256  # images a device encodes at once
Progress = Callable[[int, int], None]


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
    self._kept: tuple[str, dict[str, Labelled]] = ("", {})
    self._check()

  def _check(self) -> None:
    """Refuses now what a probe after days of training would refuse."""
    probe = self._experiment.config.probe
    if probe.protocol != "none":
      self._probe_resize()
    if probe.protocol == "paper":
      number = self._experiment.source.num_examples("train")
      mesh = self._experiment.mesh
      Recipe.of(probe).fitted(number, mesh, "probe.batch_size")

  @functools.cached_property
  def bank(self) -> Source:
    """The source whose training images are the bank of kNN."""
    source = self._experiment.source
    number = self._experiment.config.knn.bank_images
    return subsets.sample(source, number) if number else source

  def features(
    self,
    state: step_lib.TrainState,
    split: str,
    interrupt: Callable[[], None] = lambda: None,
  ) -> Labelled:
    """Encodes a split: features float32 [N, F] and labels int32 [N].

    Args:
      state: whose encoder.
      split: "train", "test", or "bank" for the training images of kNN.
      interrupt: called before every batch; may raise.

    Returns:
      Features and labels.
    """
    variables = step_lib.encoder_variables(state)
    fingerprint, kept = self._kept
    if split in kept and features.fingerprint(variables) == fingerprint:
      return kept[split]
    return self._extract(variables, split, self._resize, interrupt)

  def _extract(
    self,
    variables: Any,
    split: str,
    resize: tuple[int, int] | None,
    interrupt: Callable[[], None] = lambda: None,
  ) -> Labelled:
    """Encodes a split with given variables and size of images."""
    mesh = self._experiment.mesh
    is_bank = split == "bank"
    encoded, labels = features.extract(
      self._mapped_encode,
      variables,
      self.bank if is_bank else self._experiment.source,
      "train" if is_bank else split,
      batch_size=_BATCH * mesh.size,
      resize=resize,
      mesh=mesh,
      interrupt=interrupt,
      **self._pixels,
    )
    if labels.min() < 0:
      raise UsageError(
        f"the {split} images of {self._experiment.config.data.name} have no"
        " labels, which kNN and probe need: set config.data.train_split and"
        " config.data.test_split to labelled splits"
      )
    return encoded, labels

  def knn(self, bank: Labelled, test: Labelled) -> dict[str, Any]:
    """Classifies the test features by their neighbours in the bank."""
    settings, source = self._experiment.config.knn, self._experiment.source
    return knn.run(
      *bank,
      *test,
      num_classes=source.num_classes,
      k=settings.ks,
      temperature=settings.temperature,
      mesh=self._experiment.mesh,
    )

  def monitor(
    self,
    state: step_lib.TrainState,
    *,
    keep: bool = False,
    interrupt: Callable[[], None] = lambda: None,
  ) -> dict[str, float]:
    """The kNN accuracy of a state, percent.

    Args:
      state: what to measure.
      keep: remembers the features until those of another state are, so that
        `features` need not compute them again.
      interrupt: called before every batch; may raise.

    Returns:
      The figures of `knn.run`.
    """
    bank = self.features(state, "bank", interrupt)
    test = self.features(state, "test", interrupt)
    if keep:
      encoder = features.fingerprint(step_lib.encoder_variables(state))
      self._kept = encoder, {"bank": bank, "test": test}
    figures = self.knn(bank, test)
    return {name: figures[name] for name in figures if "top" in name}

  def run(
    self,
    state: step_lib.TrainState,
    bank: Labelled,
    test: Labelled,
    progress: Progress | None = None,
    *,
    workdir: pathlib.Path | None = None,
    has_head: bool = True,
  ) -> dict[str, dict[str, Any]]:
    """All figures of a state, each with its protocol.

    Args:
      state: what to measure.
      bank: its features of the bank, from `features`.
      test: of the test split.
      progress: told the steps of a long probe, done and in all.
      workdir: where an unfinished probe is saved; nowhere if absent.
      has_head: whether the transformation head has been trained at all.

    Returns:
      `knn`, and where they apply `transformation` and `linear_probe`.
    """
    config = self._experiment.config
    knn_protocol = self._splits() | {"augmentation": "none"}
    figures = {"knn": self.knn(bank, test) | knn_protocol}
    if config.equivariance.weight > 0 and has_head:
      figures["transformation"] = transformation.run(
        self._experiment, state, batch_size=_BATCH
      ) | {"test_split": config.data.test_split}
    if config.probe.protocol != "none":
      figures["linear_probe"] = self.probe(state, bank, test, progress, workdir)
    return figures

  def probe(
    self,
    state: step_lib.TrainState,
    bank: Labelled,
    test: Labelled,
    progress: Progress | None = None,
    workdir: pathlib.Path | None = None,
  ) -> dict[str, Any]:
    """The linear probe that the config describes; arguments as for `run`."""
    config = self._experiment.config
    variables = step_lib.encoder_variables(state)
    resize = self._probe_resize()
    is_whole = config.knn.bank_images == 0
    figures = linear_probe.run(
      self._encode,
      variables,
      self._experiment.source,
      protocol=config.probe.protocol,
      recipe=Recipe.of(config.probe),
      seed=config.seed,
      train=lambda: bank if is_whole else self.features(state, "train"),
      test=lambda: (
        test
        if config.probe.protocol == "fast" or resize == self._resize
        else self._extract(variables, "test", resize)
      ),
      view=self._train_view(),
      mesh=self._experiment.mesh,
      progress=progress,
      workdir=workdir,
      save_every_epochs=config.probe.checkpoint_every_epochs,
      circumstances=self._circumstances(resize),
    )
    return figures | self._splits()

  def finetune(
    self,
    state: step_lib.TrainState,
    progress: Progress | None = None,
    *,
    workdir: pathlib.Path | None = None,
  ) -> dict[str, Any]:
    """Fine-tunes on the few labels that the config chooses, and tests.

    Args:
      state: whose encoder to begin with; it stays as it is.
      progress: told the steps, done and in all.
      workdir: where an unfinished training is saved; nowhere if absent.

    Returns:
      The figures and protocol of `finetune.run`.
    """
    config, source = self._experiment.config, self._experiment.source
    settings = config.finetune
    labelled = subsets.few_labels(
      source, settings.labels, settings.subset, settings.label_list
    )
    test, _ = self.features(state, "test")
    chosen: dict[str, Any] = {"label_list": settings.label_list}
    if settings.label_list is None:
      chosen = {"labels": settings.labels, "subset": settings.subset}
    figures = finetune.run(
      self._experiment.networks.encoder,
      step_lib.encoder_variables(state),
      labelled,
      lambda variables: self._extract(variables, "test", self._resize),
      recipe=Recipe(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.head_learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        update_rate_every="epoch",
        repetitions=1,
        initial_std=finetune.INITIAL_STD,
      ),
      encoder_learning_rate=settings.learning_rate,
      view=self._train_view(),
      width=test.shape[1],
      num_test=len(test),
      mesh=self._experiment.mesh,
      seed=config.seed,
      progress=progress,
      workdir=workdir,
      circumstances=chosen | self._circumstances(self._resize),
    )
    return figures | self._splits()

  def _splits(self) -> dict[str, str]:
    data = self._experiment.config.data
    return {"train_split": data.train_split, "test_split": data.test_split}

  def _train_view(self) -> Any:
    config = self._experiment.config
    size, pixels = config.views.first.size, self._pixels
    return linear_probe.train_view(
      size, **pixels, interpolation=config.probe.interpolation
    )

  def _probe_resize(self) -> tuple[int, int] | None:
    """How the device resizes test images for the probe."""
    config = self._experiment.config
    if config.probe.resize_size is None:
      return self._resize
    if self._experiment.source.differs_in_size:
      raise UsageError(
        "config.probe.resize_size is for images of one size; those of"
        f" {config.data.name} differ: set config.data.resize_size instead"
      )
    return config.probe.resize_size, config.views.first.size

  def _circumstances(self, resize: tuple[int, int] | None) -> dict[str, Any]:
    """What beside a recipe decides the figures of a classifier."""
    config = self._experiment.config
    steps = []
    if self._experiment.source.differs_in_size:
      size = config.data.image_size
      shorter = config.data.resize_size or size
      steps.append(f"Resize {shorter} bilinear, CenterCrop {size}")
    if resize is not None:
      steps.append(f"Resize {resize[0]} bicubic, CenterCrop {resize[1]}")
    return {
      "data": config.data.name,
      "precision": config.precision,
      "test_transform": ", ".join(steps) or "none",
    }
