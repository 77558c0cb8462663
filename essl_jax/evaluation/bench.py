"""The bench of evaluations: an experiment, its images, their features."""

from collections.abc import Callable, Collection, Iterator
import contextlib
import dataclasses
import functools
from typing import Any

import numpy as np

from essl_jax import config as config_lib
from essl_jax.data import Source
from essl_jax.errors import UsageError
from essl_jax.evaluation import guard, pictures
from essl_jax.evaluation.encoding import Encoding, Interrupt
from essl_jax.evaluation.evaluation import Evaluation
from essl_jax.storage import logs, places
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib

Labelled = tuple[np.ndarray, np.ndarray]
"""Features float32 [N, D] and labels int32 [N]."""


@dataclasses.dataclass
class Bench:
  """The experiment of a run, for its evaluations.

  Attributes:
    experiment: whose states are measured.
    encoding: of its images; compiles each part once.
    evaluations: those of the config that its mode runs.
    workdir: where unfinished work is kept; nowhere if absent.
    interrupt: called between batches and steps, in all processes alike; may
      raise.
    at_random: names of networks that nobody has trained.
    figures: of the evaluations that have run, by their names.
  """

  experiment: experiment_lib.Experiment
  encoding: Encoding
  evaluations: tuple[Evaluation, ...] = ()
  workdir: places.Path | None = None
  interrupt: Interrupt = lambda: None
  at_random: Collection[str] = ()
  figures: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

  @property
  def sources(self) -> tuple[Source, ...]:
    """All sources that are read; they know their broken images."""
    experiment = self.experiment
    return experiment.source, experiment.labelled, *self.encoding.sources

  @functools.cached_property
  def views(self) -> pictures.Sheet:
    """A few test images and their views, as a first step sees them."""
    return pictures.make_sheet(self.experiment)

  @property
  def splits(self) -> dict[str, str]:
    """The names of the splits, for protocols."""
    data = self.experiment.config.data
    return {"train_split": data.labelled, "test_split": data.labelled_test}

  def features(
    self, state: step_lib.TrainState, split: str, images: int = 0
  ) -> Labelled:
    """Encodes a labelled split.

    Args:
      state: whose encoder.
      split: "train" or "test".
      images: how many of them, see `Encoding.features`; 0 is all.

    Returns:
      Features and labels.
    """
    return self.encoding.features(state, split, self.interrupt, images=images)

  def encoder_variables(self, state: step_lib.TrainState) -> dict[str, Any]:
    """The variables of the encoder that is measured; see `Encoding`."""
    return self.encoding.variables(state)

  @property
  def measured(self) -> dict[str, str]:
    """Which network and which of its features are measured."""
    config = self.experiment.config
    return {
      "network": config_lib.evaluated_network(config),
      "encoder_features": config.evaluate_features,
    }

  @contextlib.contextmanager
  def progress(self, name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar whose every step may be interrupted."""
    with logs.progress_bar(name) as advance:

      def tick(done: int, total: int) -> None:
        self.interrupt()
        advance(done, total)

      yield tick

  @property
  def look_every(self) -> int:
    """Epochs between two calls of `monitor`; 0 is at the end alone."""
    found = [evaluation.look_every() for evaluation in self.evaluations]
    return min(filter(None, found), default=0)

  def is_due(self, evaluation: Evaluation, epoch: int, is_last: bool) -> bool:
    """Whether `monitor` asks an evaluation after an epoch."""
    every = evaluation.look_every()
    return every is None or is_last or bool(every and epoch % every == 0)

  def monitor(
    self,
    state: step_lib.TrainState,
    *,
    epoch: int = 0,
    is_last: bool = False,
  ) -> tuple[dict[str, float], str]:
    """Figures of a state during training, of all evaluations that are due.

    Args:
      state: the state to measure.
      epoch: done so far.
      is_last: remembers the features, so that the evaluation at the end need
        not compute them again.

    Returns:
      Figures by name, and the most telling ones in a few words.
    """
    figures: dict[str, float] = {}
    said = []
    with self.encoding.remembering(state, keep=is_last):
      for evaluation in self.evaluations:
        if self.is_due(evaluation, epoch, is_last):
          found, text = guard.monitor(evaluation, self, state)
          figures |= found
          said.append(text)
    return figures, ", ".join(filter(None, said))

  def run(self, evaluation: Evaluation, state: step_lib.TrainState) -> None:
    """Adds an evaluation's figures of a state; all processes call this."""
    found = guard.run(evaluation, self, state)
    if found is not None:
      self.figures[evaluation.name] = found

  def draw(self, state: step_lib.TrainState, axes: Any) -> None:
    """Draws the picture of the first evaluation that has one."""
    for evaluation in self.evaluations:
      with guard.told_by(evaluation, "draw"):
        if evaluation.draw(self, state, axes):
          return
    axes.axis("off")


def make(experiment: experiment_lib.Experiment, **options: Any) -> Bench:
  """The bench of an experiment, its evaluations checked.

  Args:
    experiment: whose states are measured.
    **options: of `Bench`.

  Returns:
    The bench.

  Raises:
    UsageError: an evaluation would refuse the config, the images or the mode.
  """
  config = experiment.config
  asked = experiment.evaluations
  for evaluation in asked:
    guard.check_settings(evaluation)
  chosen = [x for x in asked if config.mode in x.modes]
  if config.mode == "finetune" and not chosen:
    raise UsageError(
      "config.mode=finetune needs an evaluation of that mode, and"
      f" config.evaluations has none: {', '.join(config.evaluations)}"
    )
  names = [x.name for x in chosen]
  if twice := [name for name in names if names.count(name) > 1]:
    raise UsageError(
      f"config.evaluations has two named {twice[0]}: give one of them another"
      " `key`"
    )
  is_random = not config.epochs and not config.init_from
  for evaluation in chosen:
    if is_random and evaluation.needs_training:
      raise UsageError(
        f"config.evaluations: {evaluation.name} needs a trained encoder, and"
        " config.epochs is 0 without config.init_from: leave it out"
      )
  # Those of another mode may have ranked the checkpoints.
  if config.evaluate_checkpoint == "best" and not any(
    x.ranks for x in asked if x.look_every() != 0
  ):
    raise UsageError(
      "config.evaluate_checkpoint=best needs an evaluation that ranks"
      " checkpoints in training, such as knn: add one to config.evaluations"
    )
  made = Bench(experiment, Encoding(experiment), tuple(chosen), **options)
  for evaluation in chosen:
    with guard.told_by(evaluation, "check"):
      evaluation.check(made)
  return made
