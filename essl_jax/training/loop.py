"""The pre-training loop: restores, steps, logs, evaluates, saves."""

from collections.abc import Mapping
import dataclasses
from typing import Any, Protocol

import jax

from essl_jax import config as config_lib
from essl_jax.devices import cpu
from essl_jax.loggers import several
from essl_jax.storage import checkpoint, logs, places, starts, weights
from essl_jax.storage import preemption as preemption_lib
from essl_jax.storage.workdir import from_process_0
from essl_jax.training import collapse, dispatch, profile, progress
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib


class Watch(Protocol):
  """Measures states during training; `evaluation.bench.Bench` is one.

  Attributes:
    look_every: epochs between two measurements; 0 measures only at the end.
  """

  @property
  def look_every(self) -> int:
    """See the attributes above."""

  def monitor(
    self, state: Any, *, epoch: int = 0, is_last: bool = False
  ) -> tuple[dict[str, float], str]:
    """Measures a state; returns the figures, and the main ones as text."""


def pretrain(
  experiment: experiment_lib.Experiment,
  bench: Watch,
  workdir: places.Path,
  preemption: preemption_lib.Preemption,
  traced: profile.Steps | None = None,
  others: several.Loggers | None = None,
) -> bool:
  """Trains from the workdir's latest checkpoint to the end.

  Args:
    experiment: from `experiment.build`.
    bench: measures the states of this experiment.
    workdir: holds, or will hold, checkpoints and logs.
    preemption: asked after each dispatch of steps.
    traced: steps to write a profile of.
    others: loggers that get all figures.

  Returns:
    True if training finished and evaluation may follow; False after SIGTERM,
    with the state saved.

  Raises:
    FloatingPointError: a loss is not finite; names the step.
    UsageError: the workdir holds another network.
  """
  best = config_lib.ranking_figure(experiment.config)
  with checkpoint.Checkpoints(workdir, best_metric=best) as checkpoints:
    state = experiment.create_state()
    if checkpoints.latest_step():
      state = checkpoints.restore(state)  # discards damaged checkpoints
    clock = progress.Clock(checkpoints.latest_step() or 0)
    if others is not None:
      others.begin(clock.start_step)
    with logs.Logger(
      workdir,
      total_steps=experiment.total_steps,
      start_step=clock.start_step,
      enabled=jax.process_index() == 0,
      images_per_step=experiment.config.batch_size,
      others=others,
    ) as logger:
      for line in experiment.describe(state.params):
        logger.info(line)
      training = _Training(
        experiment=experiment,
        bench=bench,
        workdir=workdir,
        preemption=preemption,
        checkpoints=checkpoints,
        logger=logger,
        clock=clock,
        alarm=collapse.Alarm(
          experiment.config, experiment.steps_per_epoch, logger.info
        ),
        traced=traced,
      )
      prepare = training.resume if clock.start_step else training.begin
      try:
        state = prepare(state)
      except preemption_lib.Stopped:
        logger.info(_stopped(clock.start_step, workdir))
        return False
      return training.run(state)


@dataclasses.dataclass(frozen=True)
class _Training:
  """One start of a run."""

  experiment: experiment_lib.Experiment
  bench: Watch
  workdir: places.Path
  preemption: preemption_lib.Preemption
  checkpoints: checkpoint.Checkpoints
  logger: logs.Logger
  clock: progress.Clock
  alarm: collapse.Alarm
  traced: profile.Steps | None

  def begin(self, state: step_lib.TrainState) -> step_lib.TrainState:
    """Measures the state at step 0; raises `Stopped`."""
    name = "untrained"
    if self.experiment.config.init_from:
      state, origin = initialise(self.experiment)
      self.logger.info(origin.describe())
      name = "before training"
    if self.bench.look_every:
      figures, said = self.bench.monitor(state)
      self.logger.write(0, figures)
      self.logger.info(f"{name}: {said}")
    self.preemption.check()  # the first step takes long to compile
    return state

  def resume(self, state: step_lib.TrainState) -> step_lib.TrainState:
    """Measures a restored state if the start that saved it did not.

    So neither figures nor the best checkpoint depend on where a run stopped.
    Raises `Stopped`.
    """
    step, total = self.clock.start_step, self.experiment.total_steps
    self.logger.info(f"resuming {self.workdir} from step {step:,} of {total:,}")
    # All processes measure, or none.
    if not self._is_watched(step) or from_process_0(
      "known" if logs.is_measured(self.workdir, step) else ""
    ):
      return state
    epoch = step // self.experiment.steps_per_epoch
    figures, said = self.bench.monitor(
      state, epoch=epoch, is_last=step == total
    )
    if figures:
      if self._is_kept(step):
        self.checkpoints.rank(step, figures)
      self.logger.write(step, figures)  # last: it marks the step as measured
    epochs = self.experiment.config.epochs
    self.logger.info(f"epoch {epoch}/{epochs}: {said}")
    return state

  def run(self, state: step_lib.TrainState) -> bool:
    """Trains to the end; returns False if it was stopped before."""
    step, total = self.clock.start_step, self.experiment.total_steps
    metrics = progress.Metrics(self.logger, self.experiment, self.alarm)
    with profile.Trace(
      self.traced, self.workdir, metrics, self.clock, self.logger.info
    ) as trace:
      if step < total:
        return self._advance(state, metrics, trace)
      trace.before(step, 0)  # no batches are prepared for a finished run
    if jax.process_index() == 0 and not starts.reach(self.workdir, total):
      starts.record(self.workdir, self.clock.record(total))
    return True

  def _advance(
    self,
    state: step_lib.TrainState,
    metrics: progress.Metrics,
    trace: profile.Trace,
  ) -> bool:
    """Does the remaining steps, at least one; returns as `run` does."""
    step, total = self.clock.start_step, self.experiment.total_steps
    per_epoch = self.experiment.steps_per_epoch
    most = self.experiment.steps_per_dispatch
    advance = dispatch.make_advance(self.experiment, step)
    while step < total:
      left = per_epoch - step % per_epoch
      trace.before(step, min(most, left))
      state, values, count, is_new = advance(state, left)
      step += count
      metrics.push(step, values, count)
      if is_new:  # the clock does not count its compilation
        metrics.settle()
        cpu.keep_memory()
        self.clock.start(step)
      trace.after(step)
      stop = self.preemption.reached()
      if step % per_epoch and not stop:
        continue
      metrics.settle()  # raises before a state that is not finite is saved
      self.clock.pause(step)
      if self._end_epoch(state, step, metrics.latest, stop=stop):
        self.logger.info(_stopped(step, self.workdir))
        return False
      self.clock.start(step)
    return True

  def _end_epoch(
    self,
    state: step_lib.TrainState,
    step: int,
    latest: Mapping[str, float],
    *,
    stop: bool,
  ) -> bool:
    """Measures and saves if due; returns whether to stop."""
    figures = None
    if not stop and self._is_watched(step):
      try:
        figures = self._look(state, step, latest)
      except preemption_lib.Stopped:
        stop = True  # the state is saved now and measured on resuming
    if stop or self._is_kept(step):
      # Send before saving: once a step is saved, no start logs it again.
      self.logger.send()
      self.checkpoints.save(step, state, figures)
      if jax.process_index() == 0:
        starts.record(self.workdir, self.clock.record(step))
    return stop

  def _look(
    self, state: step_lib.TrainState, step: int, latest: Mapping[str, float]
  ) -> dict[str, float]:
    """Measures and logs the state after an epoch; raises `Stopped`."""
    epoch = step // self.experiment.steps_per_epoch
    is_last = step == self.experiment.total_steps
    figures, said = self.bench.monitor(state, epoch=epoch, is_last=is_last)
    if figures:
      self.logger.write(step, figures)
    self.alarm.look(epoch, figures)
    words = ", ".join(filter(None, (f"loss {latest['loss']:.4f}", said)))
    epochs = self.experiment.config.epochs
    self.logger.info(f"epoch {epoch}/{epochs}: {words}")
    return figures

  def _is_watched(self, step: int) -> bool:
    """Whether the state after a step is measured: only at an epoch's end."""
    epoch, rest = divmod(step, self.experiment.steps_per_epoch)
    every = self.bench.look_every
    is_last = step == self.experiment.total_steps
    return not rest and bool(is_last or (every and epoch % every == 0))

  def _is_kept(self, step: int) -> bool:
    """Whether the state after a step is saved even if nothing stops the run."""
    epoch, rest = divmod(step, self.experiment.steps_per_epoch)
    is_due = epoch % self.experiment.config.checkpoint_every_epochs == 0
    is_last = step == self.experiment.total_steps
    return is_last or (not rest and is_due)


def _stopped(step: int, workdir: places.Path) -> str:
  if not step:
    return (
      "stopped by SIGTERM before the first step; the same command starts again"
    )
  return (
    f"stopped by SIGTERM after step {step:,}; {workdir} holds the state and"
    " the same command resumes from there"
  )


def initialise(
  experiment: experiment_lib.Experiment,
) -> tuple[step_lib.TrainState, weights.Origin]:
  """Creates the state at step 0 with the weights that `config.init_from` names.

  Args:
    experiment: its config names a file.

  Returns:
    The state, whose target network, if any, is a copy of the trained one; and
    what was loaded.

  Raises:
    UsageError: the file cannot be read, or holds another encoder.
  """
  config = experiment.config
  assert config.init_from is not None

  def unfit(metadata: dict[str, Any]) -> dict[str, str]:
    terms = experiment.networks.terms
    found = [term.unfit_heads(metadata) for term in terms]
    return {name: why for x in found for name, why in x.items()}

  encoder = config_lib.to_dict(config)["encoder"]
  state, origin = weights.initialise(
    experiment.create_state(), config.init_from, unfit, encoder
  )
  return step_lib.begin(state, experiment.networks.method), origin
