"""The pre-training loop: restore, step, log, evaluate, save."""

import json
import pathlib
import time
from typing import Any

import jax

from essl_jax import checkpoint
from essl_jax import config as config_lib
from essl_jax import experiment as experiment_lib
from essl_jax import logs
from essl_jax import methods
from essl_jax import pictures
from essl_jax import step as step_lib
from essl_jax.errors import UsageError
from essl_jax.evaluation import suite as suite_lib


def count_parameters(params: Any) -> int:
  """How many numbers a tree of arrays holds."""
  return sum(x.size for x in jax.tree.leaves(params))


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
  config = experiment.config

  # --- State: the beginning, or the latest checkpoint
  with (
      checkpoint.Checkpoints(workdir) as checkpoints,
      checkpoint.Preemption() as preemption,
  ):
    state = experiment.create_state()
    parameters = count_parameters(state.params)
    start = checkpoints.latest_step() or 0
    if start:
      state = checkpoints.restore(state)

    with logs.Logger(
        workdir,
        total_steps=experiment.total_steps,
        start_step=start,
        enabled=jax.process_index() == 0,
        images_per_step=config.batch_size,
    ) as logger:
      logger.info(
          f"{config.method} on {config.data.name},"
          f" lambda {config.equivariance.weight:g}:"
          f" {parameters:,} parameters, {experiment.total_steps:,} steps of"
          f" {config.batch_size} images on {experiment.mesh.size}"
          f" {jax.devices()[0].device_kind} device(s)"
      )
      if start:
        logger.info(f"resuming {workdir} from step {start:,}")
      step_fn = experiment.make_step()
      if not start:
        logger.write(0, suite.monitor(state))

      # --- Loop: dispatch a step, then read the metrics of the one before
      begun, warm_begun, warm_steps = time.monotonic(), 0.0, 0
      monitoring = 0.0
      pending: tuple[int, Any] | None = None
      metrics: dict[str, float] = {}

      def settle() -> dict[str, float]:
        """Waits for the pending step, checks it and logs it when due."""
        if pending is None:
          return metrics
        done, values = pending
        figures = {k: float(v) for k, v in jax.device_get(values).items()}
        logs.check_finite(done, figures)
        if done % config.log_every == 0 or done == experiment.total_steps:
          logger.write(done, figures)
        logger.progress(done, figures)
        return figures

      batches = experiment.batches(start) if start < experiment.total_steps else iter(())
      for done in range(start + 1, experiment.total_steps + 1):
        state, values = step_fn(state, next(batches))
        metrics = settle()
        pending = (done, values)
        if done == start + 1:  # compilation is over
          jax.block_until_ready(values)
          warm_begun = time.monotonic()
        else:
          warm_steps += 1

        # --- End of an epoch, or of the run: measure and save
        stop = preemption.reached(done)
        epoch_ends = done % experiment.steps_per_epoch == 0
        epoch = done // experiment.steps_per_epoch
        last = done == experiment.total_steps
        if not (epoch_ends or stop):
          continue
        metrics, pending = settle(), None
        pause = time.monotonic()
        figures = None
        if epoch_ends and (last or epoch % config.knn.every_epochs == 0):
          figures = suite.monitor(state)
          logger.write(done, figures)
          logger.info(
              f"epoch {epoch}/{config.epochs}: loss {metrics['loss']:.4f},"
              f" kNN {figures['knn_top1']:.2f}%"
          )
        save_due = epoch_ends and epoch % config.checkpoint_every_epochs == 0
        if save_due or last or stop:
          checkpoints.save(done, state, figures, wait=last or stop)
        monitoring += time.monotonic() - pause
        if stop and not last:
          logger.info(
              f"stopped by SIGTERM after step {done:,}; the state is saved in"
              f" {workdir}; the same command goes on from there"
          )
          return None

  # --- Figures
  ended = time.monotonic()
  seconds = ended - warm_begun - monitoring
  speed = warm_steps * config.batch_size / seconds if warm_steps else None
  return {
      "steps": experiment.total_steps,
      "epochs": config.epochs,
      "resumed_from_step": start,
      "steps_of_this_start": experiment.total_steps - start,
      "parameters": parameters,
      "seconds_of_this_start": ended - begun,
      "source_images_per_second": speed,
      "encoder_images_per_second": speed and speed * experiment.encodings_per_image,
      "last_step": metrics,
  }


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
  described = config_lib.to_dict(config)
  if config.mode == "evaluate":
    checkpoint.read_config(workdir)  # refuses a folder without a run
  checkpoint.check_config(workdir, described, ignore=config_lib.FREE_FIELDS)
  experiment = experiment_lib.build(config)
  suite = suite_lib.Suite(experiment)

  training = _earlier_training(workdir)
  if config.mode == "train":
    figures = pretrain(experiment, suite, workdir)
    if figures is None:
      return
    if figures["steps_of_this_start"] or training is None:
      training = figures
  state, step = _restore(experiment, workdir)
  results = {
      "step": step,
      "untrained": _logged(workdir, step=0),
      "figures": suite.run(state),
      "training": training,
      "environment": logs.environment(),
      "config": described,
  }
  if jax.process_index() == 0:
    logs.write_json(workdir / "results.json", results)
    picture = pictures.write_summary(workdir, experiment, suite, state)
    _report(results, workdir, picture)


def _earlier_training(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The training figures of a results file already there, if any."""
  path = workdir / "results.json"
  return json.loads(path.read_text())["training"] if path.exists() else None


def _logged(workdir: pathlib.Path, step: int) -> dict[str, Any]:
  """What `metrics.jsonl` holds for a step."""
  figures: dict[str, Any] = {}
  for line in (workdir / "metrics.jsonl").read_text().splitlines():
    record = json.loads(line)
    if record.pop("step") == step:
      figures |= record
  figures.pop("wall_time", None)
  return figures


def _restore(
    experiment: experiment_lib.Experiment, workdir: pathlib.Path
) -> tuple[step_lib.TrainState, int]:
  """The state to evaluate, and its step."""
  with checkpoint.Checkpoints(workdir) as checkpoints:
    best = experiment.config.evaluate_checkpoint == "best"
    step = checkpoints.best_step() if best else checkpoints.latest_step()
    if step is None:
      raise UsageError(f"{workdir} holds no checkpoint: train first")
    return checkpoints.restore(experiment.create_state(), step), step


def _report(
    results: dict[str, Any],
    workdir: pathlib.Path,
    picture: pathlib.Path | None,
) -> None:
  """Prints the one table at the end."""
  config, figures = results["config"], results["figures"]
  training = results["training"] or {}
  knn = figures["knn"]
  rows = [
      (
          f"kNN top-1, k={knn['k']}, temperature {knn['temperature']:g}",
          f"{knn['knn_top1']:.2f}%",
      )
  ]
  if "knn_top1" in results["untrained"]:
    untrained = results["untrained"]["knn_top1"]
    rows.insert(0, ("kNN top-1, untrained encoder", f"{untrained:.2f}%"))
  if "linear_probe" in figures:
    probe = figures["linear_probe"]
    spread = f" +- {probe['linear_top1_std']:.2f}"
    rows.append((
        f"linear probe top-1, protocol {probe['protocol']},"
        f" {probe['repetitions']} probe(s) of {probe['epochs']} epochs",
        f"{probe['linear_top1']:.2f}%"
        + (spread if probe["repetitions"] > 1 else ""),
    ))
  if "transformation" in figures:
    found = figures["transformation"]
    rows.append((
        f"{found['group']} recognised on test images",
        f"{found['transformation_accuracy']:.2f}%"
        f" (chance {100 / len(found['per_element']):.1f}%)",
    ))
  if training.get("source_images_per_second"):
    rows.append((
        "speed",
        f"{training['source_images_per_second']:,.0f} source images/s,"
        f" {training['encoder_images_per_second']:,.0f} through the encoder",
    ))
  if training:
    rows.append(("time", f"{training['seconds_of_this_start']:.0f} s"))
  rows.append(("results", str(workdir / "results.json")))
  if picture:
    rows.append(("picture", str(picture)))
  weight = config["equivariance"]["weight"]
  logs.summary_table(
      f"{config['method']} on {config['data']['name']}, lambda {weight:g},"
      f" step {results['step']:,}",
      rows,
  )
