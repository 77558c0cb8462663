"""The pre-training loop: restore, step, log, evaluate, save."""

import time
from typing import Any, Protocol

import jax

from essl_jax import config as config_lib
from essl_jax.devices import cpu
from essl_jax.storage import checkpoint, logs, places, starts, weights
from essl_jax.storage import preemption as preemption_lib
from essl_jax.storage.workdir import from_process_0
from essl_jax.training import dispatch
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib


class Watch(Protocol):
  """Measures states in training: `evaluation.bench.Bench`.

  Attributes:
    look_every: epochs between two looks; 0 is only at the end.
  """

  @property
  def look_every(self) -> int:
    """See the attributes above."""

  def monitor(
    self, state: Any, *, epoch: int = 0, is_last: bool = False
  ) -> tuple[dict[str, float], str]:
    """Figures of a state, and the most telling ones in a few words."""


class _Metrics:
  """Reads the metrics of steps only when the next are under way.

  The devices then never wait for the host.
  """

  def __init__(
    self, logger: logs.Logger, experiment: experiment_lib.Experiment
  ) -> None:
    self._logger = logger
    self._log_every = experiment.config.log_every
    self._last_step = experiment.total_steps
    terms = experiment.networks.terms
    shown = (name for term in terms for name in term.shown)
    self._shown = ("loss", "loss_ssl", *shown)
    self._pending: tuple[int, Any, int] | None = None
    self.latest: dict[str, float] = {}

  def push(self, step: int, values: Any, count: int) -> None:
    """Hands in what `count` steps up to `step` return; reads those before."""
    self.settle()
    self._pending = (step, values, count)

  def settle(self) -> None:
    """Waits for the pending steps, checks them and logs those that are due."""
    if self._pending is None:
      return
    last, values, count = self._pending
    self._pending = None
    each = dispatch.metrics_by_step(values, count)
    for step, figures in enumerate(each, last - count + 1):
      logs.check_finite(step, figures)
      if step % self._log_every == 0 or step == self._last_step:
        self._logger.write(step, figures)
    shown = {name: figures[name] for name in self._shown if name in figures}
    self._logger.progress(last, shown)
    self.latest = figures


class _Clock:
  """Time spent in steps, without compilation, evaluation and saving."""

  def __init__(self, start_step: int) -> None:
    self._begun = time.monotonic()
    self._start_step = start_step
    self._seconds = 0.0
    self._steps = 0
    self._since: tuple[float, int] | None = None

  def start(self, step: int) -> None:
    """Counts from here on, what came before only up to the last `pause`.

    The devices are idle after step `step`.
    """
    self._since = (time.monotonic(), step)

  def pause(self, step: int) -> None:
    """Stops counting; the devices are idle again after step `step`."""
    if self._since is not None:
      self._seconds += time.monotonic() - self._since[0]
      self._steps += step - self._since[1]
    self._since = None

  def record(self, step: int) -> dict[str, float]:
    """What `starts.record` keeps of this start of the program."""
    return {
      "start_step": self._start_step,
      "end_step": step,
      "wall_seconds": time.monotonic() - self._begun,
      "timed_steps": self._steps,
      "timed_seconds": self._seconds,
    }


def pretrain(
  experiment: experiment_lib.Experiment,
  bench: Watch,
  workdir: places.Path,
  preemption: preemption_lib.Preemption,
) -> bool:
  """Trains from the workdir's latest checkpoint to the end.

  Args:
    experiment: from `experiment.build`.
    bench: measures the states of this experiment.
    workdir: holds, or will hold, checkpoints and logs.
    preemption: asked whenever steps were dispatched.

  Returns:
    Whether to go on to the evaluation: False where SIGTERM came, after the
    state was saved.

  Raises:
    FloatingPointError: a loss that is not finite, with the step named.
    UsageError: the workdir holds another network.
  """
  config, total = experiment.config, experiment.total_steps
  best = config_lib.ranking_figure(config)
  with checkpoint.Checkpoints(workdir, best_metric=best) as checkpoints:
    # --- State: the beginning, or the latest checkpoint
    state = experiment.create_state()
    if checkpoints.latest_step():
      state = checkpoints.restore(state)  # damaged ones are none afterwards
    start = checkpoints.latest_step() or 0
    clock = _Clock(start)

    with logs.Logger(
      workdir,
      total_steps=total,
      start_step=start,
      enabled=jax.process_index() == 0,
      images_per_step=config.batch_size,
    ) as logger:
      for line in experiment.describe(state.params):
        logger.info(line)
      if start:
        logger.info(f"resuming {workdir} from step {start:,} of {total:,}")
        try:
          _measure_again(experiment, bench, workdir, state, checkpoints, logger)
        except preemption_lib.Stopped:
          logger.info(_stopped(start, workdir))
          return False
      else:
        if config.init_from:
          state, origin = initialise(experiment)
          logger.info(origin.describe())
        try:
          if bench.look_every:
            untrained, said = bench.monitor(state)
            logger.write(0, untrained)
            name = "before training" if config.init_from else "untrained"
            logger.info(f"{name}: {said}")
          preemption.check()  # the first step takes long to compile
        except preemption_lib.Stopped:
          logger.info(
            "stopped by SIGTERM before the first step; the same command"
            " begins again"
          )
          return False

      if start >= total:  # no batches are prepared for a finished run
        if jax.process_index() == 0 and not starts.reach(workdir, total):
          starts.record(workdir, clock.record(total))
        return True

      # --- Loop: steps, and at the end of epochs measures and checkpoints
      per_epoch, step = experiment.steps_per_epoch, start
      advance = dispatch.make_advance(experiment, start)
      metrics = _Metrics(logger, experiment)
      while step < total:
        left = per_epoch - step % per_epoch
        state, values, count, is_new = advance(state, left)
        metrics.push(step + count, values, count)
        if is_new:  # its compilation is not counted
          metrics.settle()
          cpu.keep_memory()
          clock.start(step + count)
        step += count
        stop = preemption.reached()
        epoch, rest = divmod(step, per_epoch)
        if rest and not stop:
          continue

        metrics.settle()  # nothing that is not finite is saved
        clock.pause(step)
        figures = None
        if not stop and _is_watched(experiment, bench, step):
          try:
            figures, said = bench.monitor(
              state, epoch=epoch, is_last=step == total
            )
          except preemption_lib.Stopped:
            stop = True  # the state is saved, and measured on resuming
          else:
            if figures:
              logger.write(step, figures)
            loss = f"loss {metrics.latest['loss']:.4f}"
            parts = filter(None, (loss, said))
            logger.info(f"epoch {epoch}/{config.epochs}: {', '.join(parts)}")
        if stop or _is_kept(experiment, step):
          logger.send()  # first: where a save is whole, no start repeats them
          checkpoints.save(step, state, figures)
          if jax.process_index() == 0:
            starts.record(workdir, clock.record(step))
        if stop:
          logger.info(_stopped(step, workdir))
          return False
        clock.start(step)

  return True


def _is_watched(
  experiment: experiment_lib.Experiment, bench: Watch, step: int
) -> bool:
  """Whether the state after a step is measured: at the end of some epochs."""
  epoch, rest = divmod(step, experiment.steps_per_epoch)
  every = bench.look_every
  is_due = step == experiment.total_steps or (every and epoch % every == 0)
  return not rest and bool(is_due)


def _is_kept(experiment: experiment_lib.Experiment, step: int) -> bool:
  """Whether a run saves the state after a step, also if nothing stops it."""
  epoch, rest = divmod(step, experiment.steps_per_epoch)
  is_due = epoch % experiment.config.checkpoint_every_epochs == 0
  return step == experiment.total_steps or (not rest and is_due)


def _measure_again(
  experiment: experiment_lib.Experiment,
  bench: Watch,
  workdir: places.Path,
  state: step_lib.TrainState,
  checkpoints: checkpoint.Checkpoints,
  logger: logs.Logger,
) -> None:
  """Measures a restored state, if the start that saved it had no time to.

  So neither figures nor the best checkpoint depend on where a run stopped.
  """
  step = int(state.step)
  if not _is_watched(experiment, bench, step):
    return
  # All processes measure, or none.
  if from_process_0("known" if logs.is_measured(workdir, step) else ""):
    return
  epoch = step // experiment.steps_per_epoch
  is_last = step == experiment.total_steps
  figures, said = bench.monitor(state, epoch=epoch, is_last=is_last)
  if figures:
    if _is_kept(experiment, step):
      checkpoints.rank(step, figures)
    logger.write(step, figures)  # last: it says that this is done
  logger.info(f"epoch {epoch}/{experiment.config.epochs}: {said}")


def _stopped(step: int, workdir: places.Path) -> str:
  return (
    f"stopped by SIGTERM after step {step:,}; {workdir} holds the state and"
    " the same command goes on from there"
  )


def initialise(
  experiment: experiment_lib.Experiment,
) -> tuple[step_lib.TrainState, weights.Origin]:
  """The state at step 0, with the weights that `config.init_from` names.

  Args:
    experiment: whose config names a file.

  Returns:
    The state, a target network being a copy of it, and what was taken.

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
