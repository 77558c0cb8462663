"""The pre-training loop: restore, step, log, evaluate, save."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax

from essl_jax import config as config_lib
from essl_jax import tasks
from essl_jax.devices import cpu
from essl_jax.evaluation import results
from essl_jax.storage import checkpoint, logs, weights
from essl_jax.storage import preemption as preemption_lib
from essl_jax.training import dispatch
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib


def run(
  config: config_lib.Config,
  workdir: pathlib.Path,
  agree: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> None:
  """Pre-trains where `mode=train`, then evaluates or fine-tunes, reports.

  `mode=evaluate` and `mode=finetune` are of the workdir's checkpoint or, where
  there is none, of the encoder that `init_from` names.

  Writes `config.json`, `metrics.jsonl`, TensorBoard events, checkpoints,
  `results.json` and `summary.png` into the workdir.

  Args:
    config: from `config.parse`.
    workdir: made if need be; a finished one is only evaluated again.
    agree: refuses facts of the data that differ between processes.

  Raises:
    UsageError: the config, the data or the workdir cannot be used.
    FloatingPointError: the loss is not finite.
  """
  is_new = not checkpoint.exists(workdir)
  if config.init_from and is_new:
    weights.read_metadata(config.init_from)  # before data is prepared
  elif config.mode != "train":
    checkpoint.read_config(workdir)  # refuses a folder without a run
  claim = functools.partial(
    checkpoint.check_config,
    workdir,
    config_lib.to_dict(config),
    ignore=config_lib.FREE_FIELDS,
    defaults=config_lib.defaults(),
    overwrite=is_new,
  )
  if not is_new:
    claim()  # before data is prepared
  experiment = experiment_lib.build(config)
  agree(experiment.facts)  # other counts are other steps, and end in a hang
  if is_new:
    claim()
  if jax.process_index() == 0:
    for warning in experiment.warnings:
      print(f"warning: {warning}")
  task = tasks.make(experiment)
  with preemption_lib.Preemption() as preemption:
    is_pretrained = config.epochs > 0
    if config.mode == "train" and is_pretrained:
      if not pretrain(experiment, task, workdir, preemption):
        return
      is_new = False
    try:
      step, origin = 0, None
      if config.init_from and is_new:
        state, origin = _initialise(experiment)
        if jax.process_index() == 0:
          print(origin.describe())
      elif not is_pretrained:
        state = experiment.create_state()
      else:
        state, step = _restore(experiment, workdir)
      write = results.write
      if config.mode == "finetune":
        write = results.write_finetune
      write(workdir, experiment, task, state, step, preemption.check, origin)
    except preemption_lib.Stopped:
      if jax.process_index() == 0:
        print(
          f"stopped by SIGTERM while evaluating; {workdir} holds the trained"
          " state and the same command goes on"
        )


def _initialise(
  experiment: experiment_lib.Experiment,
) -> tuple[step_lib.TrainState, weights.Origin]:
  """The state at step 0, with the weights that `init_from` names."""
  config = experiment.config
  assert config.init_from is not None
  return weights.initialise(
    experiment.create_state(),
    config.init_from,
    dataclasses.asdict(config.equivariance),
  )


def _restore(
  experiment: experiment_lib.Experiment, workdir: pathlib.Path
) -> tuple[step_lib.TrainState, int]:
  """The state to evaluate, and its step."""
  with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
    step = checkpoints.choose(experiment.config.evaluate_checkpoint)
    return checkpoints.restore(experiment.create_state(), step), step


class _Metrics:
  """Reads the metrics of steps only when the next are under way.

  The devices then never wait for the host.
  """

  def __init__(self, logger: logs.Logger, log_every: int, last_step: int):
    self._logger = logger
    self._log_every = log_every
    self._last_step = last_step
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
    shown = ("loss", "loss_ssl", "equivariance_accuracy")
    self._logger.progress(last, {k: figures[k] for k in shown if k in figures})
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
    """What `results.record_start` keeps of this start of the program."""
    return {
      "start_step": self._start_step,
      "end_step": step,
      "wall_seconds": time.monotonic() - self._begun,
      "timed_steps": self._steps,
      "timed_seconds": self._seconds,
    }


def pretrain(
  experiment: experiment_lib.Experiment,
  task: tasks.Task,
  workdir: pathlib.Path,
  preemption: preemption_lib.Preemption,
) -> bool:
  """Trains from the workdir's latest checkpoint to the end.

  Args:
    experiment: from `experiment.build`.
    task: measures the states of this experiment.
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
  with checkpoint.Checkpoints(workdir) as checkpoints:
    # --- State: the beginning, or the latest checkpoint
    state = experiment.create_state()
    start = checkpoints.latest_step() or 0
    clock = _Clock(start)
    if start:
      state = checkpoints.restore(state)

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
      else:
        if config.init_from:
          state, origin = _initialise(experiment)
          logger.info(origin.describe())
        try:
          if task.monitor_every:
            untrained = task.monitor(state, interrupt=preemption.check)
            logger.write(0, untrained)
            name = "before training" if config.init_from else "untrained"
            logger.info(f"{name}: {task.describe(untrained)}")
          preemption.check()  # the first step takes long to compile
        except preemption_lib.Stopped:
          logger.info(
            "stopped by SIGTERM before the first step; the same command"
            " begins again"
          )
          return False

      if start >= total:
        return True  # no batches are prepared for a finished run

      # --- Loop: steps, and at the end of epochs measures and checkpoints
      per_epoch, step = experiment.steps_per_epoch, start
      advance = dispatch.make_advance(experiment, start)
      metrics = _Metrics(logger, config.log_every, total)
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
        every = task.monitor_every
        is_watched = step == total or (every and epoch % every == 0)
        if not rest and is_watched and not stop:
          try:
            figures = task.monitor(
              state, keep=step == total, interrupt=preemption.check
            )
          except preemption_lib.Stopped:
            stop = True  # this epoch goes without, but the state is saved
          else:
            logger.write(step, figures)
            loss = f"loss {metrics.latest['loss']:.4f}"
            parts = filter(None, (loss, task.describe(figures)))
            logger.info(f"epoch {epoch}/{config.epochs}: {', '.join(parts)}")
        due = not rest and epoch % config.checkpoint_every_epochs == 0
        if due or stop or step == total:
          checkpoints.save(step, state, figures)
          if jax.process_index() == 0:
            results.record_start(workdir, clock.record(step))
        if stop:
          logger.info(
            f"stopped by SIGTERM after step {step:,}; {workdir} holds the"
            " state and the same command goes on from there"
          )
          return False
        clock.start(step)

  return True
