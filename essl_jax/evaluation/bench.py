"""The bench for evaluations: an experiment, its images and their features."""

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
    experiment: the experiment whose states are measured.
    encoding: encodes its images; compiles each part once.
    evaluations: evaluations of the config that its mode runs.
    workdir: where unfinished work is saved; if None, nowhere.
    interrupt: called between batches and steps, equally often in all processes;
      may raise.
    at_random: names of untrained networks.
    figures: figures of the evaluations that have run, by their names.
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
    """All sources that are read; they list their broken images."""
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
      state: the state whose encoder to use.
      split: "train" or "test".
      images: number of images, see `Encoding.features`; 0 means all.

    Returns:
      Features and labels.
    """
    return self.encoding.features(state, split, self.interrupt, images=images)

  def encoder_variables(self, state: step_lib.TrainState) -> dict[str, Any]:
    """The variables of the measured encoder; see `Encoding`."""
    return self.encoding.variables(state)

  @property
  def measured(self) -> dict[str, str]:
    """The network that is measured, and which of its features."""
    config = self.experiment.config
    return {
      "network": config_lib.evaluated_network(config),
      "encoder_features": config.evaluate_features,
    }

  @contextlib.contextmanager
  def progress(self, name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that calls `interrupt` at every step."""
    with logs.progress_bar(name) as advance:

      def tick(done: int, total: int) -> None:
        self.interrupt()
        advance(done, total)

      yield tick

  @property
  def look_every(self) -> int:
    """Epochs between two calls of `monitor`; 0 means only at the end."""
    found = [evaluation.look_every() for evaluation in self.evaluations]
    return min(filter(None, found), default=0)

  def is_due(self, evaluation: Evaluation, epoch: int, is_last: bool) -> bool:
    """Whether `monitor` runs an evaluation after an epoch."""
    every = evaluation.look_every()
    return every is None or is_last or bool(every and epoch % every == 0)

  def monitor(
    self,
    state: step_lib.TrainState,
    *,
    epoch: int = 0,
    is_last: bool = False,
  ) -> tuple[dict[str, float], str]:
    """Runs all evaluations that are due, during training.

    Args:
      state: the state to measure.
      epoch: number of finished epochs.
      is_last: whether to keep the features, so the evaluation at the end need
        not compute them again.

    Returns:
      Figures by name, and a short text with the most important ones.
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
    """Runs an evaluation and keeps its figures; all processes call this."""
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
  """Makes the bench of an experiment and checks its evaluations.

  Args:
    experiment: the experiment whose states are measured.
    **options: further attributes of `Bench`.

  Returns:
    The bench.

  Raises:
    UsageError: an evaluation refuses the config, the images or the mode.
  """
  config = experiment.config
  asked = experiment.evaluations
  for evaluation in asked:
    guard.check_settings(evaluation)
  chosen = [x for x in asked if config.mode in x.modes]
  if config.mode == "finetune" and not chosen:
    raise UsageError(
      "config.mode=finetune needs an evaluation of that mode, but"
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
        f"config.evaluations: {evaluation.name} needs a trained encoder, but"
        " config.epochs is 0 without config.init_from: remove it"
      )
  # Evaluations of another mode may have ranked the checkpoints.
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
