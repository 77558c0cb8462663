"""The pre-training loop: restore, step, log, evaluate, save."""

import pathlib
import time
from typing import Any

import jax

from essl_jax import checkpoint, logs, methods, results
from essl_jax import config as config_lib
from essl_jax import experiment as experiment_lib
from essl_jax import step as step_lib
from essl_jax.errors import UsageError
from essl_jax.evaluation import suite as suite_lib


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Pre-trains unless `mode=evaluate`, evaluates, reports.

  Writes `config.json`, `metrics.jsonl`, TensorBoard events, checkpoints,
  `results.json` and `summary.png` into the workdir.

  Args:
    config: from `config.parse`.
    workdir: made if need be; a finished one is only evaluated again.

  Raises:
    UsageError: the config, the data or the workdir cannot be used.
    FloatingPointError: the loss is not finite.
  """
  methods.check(config)
  if config.mode == "evaluate":
    checkpoint.read_config(workdir)  # refuses a folder without a run
  experiment = experiment_lib.build(config)
  checkpoint.check_config(
    workdir,
    config_lib.to_dict(config),
    ignore=config_lib.FREE_FIELDS,
    overwrite=not checkpoint.exists(workdir),
  )
  suite = suite_lib.Suite(experiment)
  training = None
  if config.mode == "train":
    training = pretrain(experiment, suite, workdir)
    if training is None:
      return
  state, step = _restore(experiment, workdir)
  results.write(workdir, experiment, suite, state, step, training)


def _restore(
  experiment: experiment_lib.Experiment, workdir: pathlib.Path
) -> tuple[step_lib.TrainState, int]:
  """The state to evaluate, and its step."""
  with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
    best = experiment.config.evaluate_checkpoint == "best"
    step = checkpoints.best_step() if best else checkpoints.latest_step()
    if step is None:
      raise UsageError(f"{workdir} holds no checkpoint: train first")
    return checkpoints.restore(experiment.create_state(), step), step


class _Metrics:
  """Reads the metrics of a step only when the next one is under way.

  The devices then never wait for the host.
  """

  def __init__(self, logger: logs.Logger, log_every: int):
    self._logger = logger
    self._log_every = log_every
    self._pending: tuple[int, Any] | None = None
    self.latest: dict[str, float] = {}

  def push(self, step: int, values: Any) -> None:
    """Hands in what step `step` will return, and reads the one before."""
    self.settle()
    self._pending = (step, values)

  def settle(self) -> None:
    """Waits for the pending step, checks it and logs it when due."""
    if self._pending is None:
      return
    step, values = self._pending
    self._pending = None
    figures = {k: float(v) for k, v in jax.device_get(values).items()}
    logs.check_finite(step, figures)
    if step % self._log_every == 0:
      self._logger.write(step, figures)
    shown = ("loss", "loss_ssl", "equivariance_accuracy")
    self._logger.progress(step, {k: figures[k] for k in shown if k in figures})
    self.latest = figures


class _Clock:
  """Time spent in steps, without compilation, evaluation and saving."""

  def __init__(self) -> None:
    self.begun = time.monotonic()
    self.seconds = 0.0
    self.steps = 0
    self._since: float | None = None
    self._counted = 0

  def start(self) -> None:
    """Counts from here on; the devices are idle."""
    self._since = time.monotonic()
    self._counted = 0

  def tick(self) -> None:
    """One more step was dispatched."""
    self._counted += self._since is not None

  def pause(self) -> None:
    """Stops counting; the devices are idle again."""
    if self._since is not None:
      self.seconds += time.monotonic() - self._since
      self.steps += self._counted
    self._since = None


def pretrain(
  experiment: experiment_lib.Experiment,
  suite: suite_lib.Suite,
  workdir: pathlib.Path,
) -> dict[str, Any] | None:
  """Trains from the workdir's latest checkpoint to the end.

  Args:
    experiment: from `experiment.build`.
    suite: measures the states of this experiment.
    workdir: holds, or will hold, checkpoints and logs.

  Returns:
    Figures of the training (steps, seconds, images per second, the last
    step's metrics); None where SIGTERM stopped it, with the state saved.

  Raises:
    FloatingPointError: a loss that is not finite, with the step named.
    UsageError: the workdir holds another network.
  """
  config, total = experiment.config, experiment.total_steps
  clock = _Clock()
  with (
    checkpoint.Checkpoints(workdir) as checkpoints,
    checkpoint.Preemption() as preemption,
  ):
    # --- State: the beginning, or the latest checkpoint
    state = experiment.create_state()
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    start = checkpoints.latest_step() or 0
    if start:
      state = checkpoints.restore(state)

    with logs.Logger(
      workdir,
      total_steps=total,
      start_step=start,
      enabled=jax.process_index() == 0,
      images_per_step=config.batch_size,
    ) as logger:
      logger.info(experiment.describe(parameters))
      if start:
        logger.info(f"resuming {workdir} from step {start:,} of {total:,}")
      else:
        untrained = suite.monitor(state)
        logger.write(0, untrained)
        logger.info(f"untrained: kNN {untrained['knn_top1']:.2f}%")

      # --- Loop: steps, and at the end of epochs measures and checkpoints
      step_fn = experiment.make_step()
      metrics = _Metrics(logger, config.log_every)
      batches = experiment.batches(start) if start < total else iter(())
      for step in range(start + 1, total + 1):
        state, values = step_fn(state, next(batches))
        metrics.push(step, values)
        clock.tick()
        if step == start + 1:
          jax.block_until_ready(values)  # compilation is not counted
          clock.start()
        stop = preemption.reached(step)
        epoch, rest = divmod(step, experiment.steps_per_epoch)
        if rest and not stop:
          continue

        metrics.settle()  # nothing that is not finite is saved
        clock.pause()
        figures = None
        if not rest and (step == total or epoch % config.knn.every_epochs == 0):
          figures = suite.monitor(state)
          logger.write(step, figures)
          logger.info(
            f"epoch {epoch}/{config.epochs}:"
            f" loss {metrics.latest['loss']:.4f},"
            f" kNN {figures['knn_top1']:.2f}%"
          )
        due = not rest and epoch % config.checkpoint_every_epochs == 0
        if due or stop or step == total:
          checkpoints.save(step, state, figures)
        if stop and step < total:
          logger.info(
            f"stopped by SIGTERM after step {step:,}; {workdir} holds the"
            " state and the same command goes on from there"
          )
          return None
        clock.start()

  speed = clock.steps * config.batch_size / clock.seconds if clock.steps else 0
  return {
    "steps": total,
    "epochs": config.epochs,
    "resumed_from_step": start,
    "parameters": parameters,
    "wall_seconds": time.monotonic() - clock.begun,
    "source_images_per_second": speed,
    "encoder_images_per_second": speed * experiment.encodings_per_image,
    "last_step": metrics.latest,
  }
