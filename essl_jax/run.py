"""One run of the program: pre-train, evaluate, report."""

from collections.abc import Callable, Mapping
import functools
import pathlib
from typing import Any

import jax

from essl_jax import config as config_lib
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import results
from essl_jax.storage import checkpoint, weights
from essl_jax.storage import preemption as preemption_lib
from essl_jax.storage.workdir import check_config, read_config
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import loop
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
    read_config(workdir)  # refuses a folder without a run
  claim = functools.partial(
    check_config,
    workdir,
    config_lib.to_dict(config),
    ignore=config_lib.free_fields(config),
    defaults=config_lib.defaults(config),
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
  with preemption_lib.Preemption() as preemption:
    bench = bench_lib.make(
      experiment, workdir=workdir, interrupt=preemption.check
    )
    is_pretrained = config.epochs > 0
    if config.mode == "train" and is_pretrained:
      if not loop.pretrain(experiment, bench, workdir, preemption):
        return
      is_new = False
    try:
      step, origin = 0, None
      if config.init_from and is_new:
        state, origin = loop.initialise(experiment)
        bench.at_random = origin.not_initialised
        if jax.process_index() == 0:
          print(origin.describe())
      elif not is_pretrained:
        state = experiment.create_state()
      else:
        state, step = _restore(experiment, workdir)
      results.write(bench, workdir, state, step, origin)
    except preemption_lib.Stopped:
      if jax.process_index() == 0:
        print(
          f"stopped by SIGTERM while evaluating; {workdir} holds the trained"
          " state and the same command goes on"
        )


def _restore(
  experiment: experiment_lib.Experiment, workdir: pathlib.Path
) -> tuple[step_lib.TrainState, int]:
  """The state to evaluate, and its step."""
  best = config_lib.ranking_figure(experiment.config)
  with checkpoint.Checkpoints(
    workdir, best_metric=best, read_only=True
  ) as checkpoints:
    step = checkpoints.choose(experiment.config.evaluate_checkpoint)
    return checkpoints.restore(experiment.create_state(), step), step
