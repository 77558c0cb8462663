"""What a run measures: the kNN monitor, and all figures at the end."""

from collections.abc import Callable
import pathlib
from typing import Any

from essl_jax.data import Source, subsets
from essl_jax.errors import UsageError
from essl_jax.evaluation import (
  collapse,
  finetune,
  knn,
  linear_probe,
  symmetry,
  transformation,
)
from essl_jax.evaluation.encoding import BATCH, Encoding, Interrupt
from essl_jax.evaluation.linear_probe import Labelled
from essl_jax.evaluation.recipe import Recipe
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib

Progress = Callable[[int, int], None]


class Suite:
  """Measures of the states of one experiment; compiles each part once."""

  def __init__(self, experiment: experiment_lib.Experiment):
    self._experiment = experiment
    self._encoding = Encoding(experiment)
    self._check()

  def _check(self) -> None:
    """Refuses now what a measure after days of training would refuse."""
    symmetry.check(self._encoding)
    probe = self._experiment.config.probe
    if probe.protocol != "none":
      self._probe_resize()
    if probe.protocol == "paper":
      number = self._experiment.labelled.num_examples("train")
      mesh = self._experiment.mesh
      Recipe.of(probe).fitted(number, mesh, "probe.batch_size")

  @property
  def sources(self) -> tuple[Source, ...]:
    """The images, those of the bank of kNN, and the sample of `measures`."""
    experiment, encoding = self._experiment, self._encoding
    return (
      experiment.source,
      experiment.labelled,
      encoding.bank,
      encoding.sample,
    )

  def features(
    self,
    state: step_lib.TrainState,
    split: str,
    interrupt: Interrupt = lambda: None,
  ) -> Labelled:
    """Encodes a labelled split; arguments as for `Encoding.features`."""
    found = self._encoding.features(state, split, interrupt)
    if found[1].min() < 0:
      raise UsageError(
        f"the {split} images of {self._experiment.config.data.name} have no"
        " labels, which kNN and probe need: set config.data.labelled_split and"
        " config.data.test_split to labelled splits"
      )
    return found

  def knn(self, bank: Labelled, test: Labelled) -> dict[str, Any]:
    """Classifies the test features by their neighbours in the bank."""
    settings, source = self._experiment.config.knn, self._experiment.labelled
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
    interrupt: Interrupt = lambda: None,
  ) -> dict[str, float]:
    """The kNN accuracy of a state, percent, and how collapsed it is.

    Args:
      state: what to measure.
      keep: remembers the features until those of another state are, so that
        `features` need not compute them again.
      interrupt: called before every batch; may raise.

    Returns:
      The figures of `knn.run` and `collapse.of_features`.
    """
    bank = self.features(state, "bank", interrupt)
    test = self.features(state, "test", interrupt)
    if keep:
      self._encoding.keep(state, bank=bank, test=test)
    figures = self.knn(bank, test)
    images = self._experiment.config.measures.images
    accuracies = {name: figures[name] for name in figures if "top" in name}
    return accuracies | collapse.of_features(test[0], images)

  def run(
    self,
    state: step_lib.TrainState,
    bank: Labelled,
    test: Labelled,
    progress: Progress | None = None,
    *,
    workdir: pathlib.Path | None = None,
    has_head: bool = True,
    interrupt: Interrupt = lambda: None,
  ) -> dict[str, dict[str, Any]]:
    """All figures of a state, each with its protocol.

    Args:
      state: what to measure.
      bank: its features of the bank, from `features`.
      test: of the test split.
      progress: told the steps of a long probe, done and in all.
      workdir: where an unfinished probe is saved; nowhere if absent.
      has_head: whether the transformation head has been trained at all.
      interrupt: called before every batch of the other measures; may raise.

    Returns:
      `knn`, `collapse`, and where they apply `symmetry`, `transformation` and
      `linear_probe`.
    """
    config = self._experiment.config
    knn_protocol = self._splits() | {"augmentation": "none"}
    figures = {"knn": self.knn(bank, test) | knn_protocol}
    if config.equivariance.weight > 0 and has_head:
      figures["transformation"] = transformation.run(
        self._experiment, state, batch_size=BATCH
      ) | {"test_split": config.data.test_split}
    figures["collapse"] = collapse.run(
      self._encoding, state, test[0], interrupt
    )
    if config.measures.groups:
      figures["symmetry"] = symmetry.run(self._encoding, state, interrupt)
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
      self._encoding.encode,
      variables,
      self._experiment.labelled,
      protocol=config.probe.protocol,
      recipe=Recipe.of(config.probe),
      seed=config.seed,
      train=lambda: bank if is_whole else self.features(state, "train"),
      test=lambda: (
        test
        if config.probe.protocol == "fast" or resize == self._encoding.resize
        else self._encoding.extract(variables, "test", resize)
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
    config, source = self._experiment.config, self._experiment.labelled
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
      lambda variables: self._encoding.extract(
        variables, "test", self._encoding.resize
      ),
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
      circumstances=chosen | self._circumstances(self._encoding.resize),
    )
    return figures | self._splits()

  def _splits(self) -> dict[str, str]:
    data = self._experiment.config.data
    return {"train_split": data.labelled, "test_split": data.test_split}

  def _train_view(self) -> Any:
    config = self._experiment.config
    size, pixels = config.views.first.size, self._encoding.pixels
    return linear_probe.train_view(
      size, **pixels, interpolation=config.probe.interpolation
    )

  def _probe_resize(self) -> tuple[int, int] | None:
    """How the device resizes test images for the probe."""
    config = self._experiment.config
    if config.probe.resize_size is None:
      return self._encoding.resize
    if self._experiment.labelled.differs_in_size:
      raise UsageError(
        "config.probe.resize_size is for images of one size; those of"
        f" {config.data.name} differ: set config.data.resize_size instead"
      )
    return config.probe.resize_size, config.views.first.size

  def _circumstances(self, resize: tuple[int, int] | None) -> dict[str, Any]:
    """What beside a recipe decides the figures of a classifier."""
    config = self._experiment.config
    steps = []
    if self._experiment.labelled.differs_in_size:
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
