"""One run of the program: pre-train, evaluate, report."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax

from essl_jax import config as config_lib
from essl_jax.data.labels import class_names
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import results, shown
from essl_jax.loggers import several
from essl_jax.storage import (
  about,
  bookkeeping,
  checkpoint,
  claim,
  places,
  weights,
)
from essl_jax.storage import preemption as preemption_lib
from essl_jax.storage import workdir as workdir_lib
from essl_jax.storage.workdir import check_config, read_config
from essl_jax.training import checks, loop, profile
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib


def run(
  config: config_lib.Config,
  workdir: places.Path,
  agree: Callable[[Mapping[str, Any]], None] = lambda _: None,
  told: Mapping[str, Any] | None = None,
  traced: profile.Steps | None = None,
) -> bool:
  """Pre-trains with `mode=train`, then evaluates or fine-tunes, and reports.

  `mode=evaluate` and `mode=finetune` use the workdir's checkpoint or, if there
  is none, the encoder in the file `init_from`.

  Writes `config.json`, `about.json`, `metrics-*.jsonl`, TensorBoard events,
  checkpoints, `results.json` and `summary.png` into the workdir.

  Args:
    config: from `config.parse`.
    workdir: created if necessary; a finished one is only evaluated again. No
      other program may write there meanwhile.
    agree: raises an error if facts of the data differ between processes.
    told: further entries of `about.json` for a new run, such as its `recipe`.
    traced: the training steps to profile.

  Returns:
    Whether the run has reached its end; False after SIGTERM.

  Raises:
    UsageError: the config, the data or the workdir cannot be used.
    FloatingPointError: the loss is not finite.
  """
  _check_loggers(config)
  with claim.hold(workdir, _prepare):
    if jax.process_count() > 1:
      workdir_lib.check_shared(workdir)
    return _run(config, workdir, agree, told or {}, traced)


def _check_loggers(config: config_lib.Config) -> None:
  """Raises UsageError in all processes; only process 0 needs the loggers."""
  problem = ""
  if jax.process_index() == 0:
    try:
      several.check(config)
    except UsageError as error:
      problem = str(error)
  if problem := workdir_lib.from_process_0(problem):
    raise UsageError(problem)


def _prepare(workdir: places.Path) -> None:
  """Refuses to restart a trained workdir; renames damaged files there."""
  if not checkpoint.exists(workdir):
    bookkeeping.begin_anew(workdir)
  bookkeeping.mend(workdir)


def _run(
  config: config_lib.Config,
  workdir: places.Path,
  agree: Callable[[Mapping[str, Any]], None],
  told: Mapping[str, Any],
  traced: profile.Steps | None,
) -> bool:
  is_new = not checkpoint.exists(workdir)
  experiment = _open(config, workdir, is_new, agree, traced)
  with preemption_lib.Preemption() as preemption:
    bench = bench_lib.make(
      experiment, workdir=workdir, interrupt=preemption.check
    )
    known = {
      "preprocessing": bench.encoding.preprocessing.to_json(),
      "classes": class_names(experiment.labelled) or None,
    }
    about.write(workdir, {**told, **known}, overwrite=is_new)
    trains = config.mode == "train" and config.epochs > 0
    views = functools.partial(shown.views, bench)
    logs = several.Loggers(
      config,
      workdir,
      enabled=jax.process_index() == 0,
      first=views if trains and is_new else None,
    )
    with logs:
      if trains and not loop.pretrain(
        experiment, bench, workdir, preemption, traced, logs
      ):
        return False
      from_file = bool(config.init_from) and is_new and not trains
      try:
        trained = _trained(experiment, bench, workdir, from_file)
        results.write(bench, workdir, *trained, loggers=logs)
      except preemption_lib.Stopped:
        _say(
          f"stopped by SIGTERM while evaluating; {workdir} holds the trained"
          " state and the same command resumes"
        )
        return False
      logs.finish()
  return True


def _open(
  config: config_lib.Config,
  workdir: places.Path,
  is_new: bool,
  agree: Callable[[Mapping[str, Any]], None],
  traced: profile.Steps | None,
) -> experiment_lib.Experiment:
  """Opens the data and claims the workdir; quick checks come first."""
  before: Mapping[str, Any] = {}
  if config.init_from and is_new:
    weights.read_metadata(config.init_from)
  elif places.exists(workdir / "config.json") or (
    is_new and config.mode != "train"
  ):
    before = read_config(workdir)  # raises for a folder without a run
    if is_new and config.mode != "train" and config.epochs:
      raise UsageError(
        f"no checkpoint in {workdir}: train first, or set --workdir to a run"
        " that has saved one"
      )
  check = functools.partial(
    check_config,
    workdir,
    config_lib.to_dict(config),
    ignore=config_lib.free_fields(config, before),
    defaults=config_lib.defaults(config),
    overwrite=is_new,
  )
  is_known = not is_new and places.exists(workdir / "config.json")
  if is_known:
    check()
  experiment = experiment_lib.build(config)
  checks.check_memory(experiment)
  profile.check(traced, config.mode, experiment.total_steps)
  agree(experiment.facts)  # with other counts, processes would hang
  if not is_new and not is_known:
    _restore(experiment, workdir)  # raises for the checkpoint of another config
    _say(f"warning: {workdir} has no config: writing that of this command")
  if not is_known:
    check()
  for warning in experiment.warnings:
    _say(f"warning: {warning}")
  return experiment


def _trained(
  experiment: experiment_lib.Experiment,
  bench: bench_lib.Bench,
  workdir: places.Path,
  from_file: bool,
) -> tuple[step_lib.TrainState, int, weights.Origin | None]:
  """The state to evaluate, its step, and the origin of weights from a file."""
  if from_file:
    state, origin = loop.initialise(experiment)
    bench.at_random = origin.not_initialised
    _say(origin.describe())
    return state, 0, origin
  if experiment.config.epochs == 0:
    return experiment.create_state(), 0, None
  return *_restore(experiment, workdir), None


def _restore(
  experiment: experiment_lib.Experiment, workdir: places.Path
) -> tuple[step_lib.TrainState, int]:
  """The checkpoint that is to be evaluated, and its step."""
  best = config_lib.ranking_figure(experiment.config)
  with checkpoint.Checkpoints(
    workdir, best_metric=best, read_only=True
  ) as checkpoints:
    state = checkpoints.restore(
      experiment.create_state(), experiment.config.evaluate_checkpoint
    )
    assert checkpoints.restored is not None
    return state, checkpoints.restored


def _say(line: str) -> None:
  if jax.process_index() == 0:
    print(line)
