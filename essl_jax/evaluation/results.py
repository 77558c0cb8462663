"""What a run leaves behind: `results.json`, a picture and one table."""

from collections.abc import Iterable, Mapping
import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax

from essl_jax import config as config_lib
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import left_out, pictures
from essl_jax.evaluation.evaluation import Evaluation
from essl_jax.storage import environment, logs, weights
from essl_jax.storage import starts as starts_lib
from essl_jax.storage.workdir import read_config, to_json
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib


def write(
  bench: bench_lib.Bench,
  workdir: pathlib.Path,
  state: step_lib.TrainState,
  step: int,
  origin: weights.Origin | None = None,
) -> None:
  """Measures a state, writes all that is known of its run, prints a table.

  `mode=finetune` adds figures to those of before; all else in `results.json`
  stays.

  Args:
    bench: the run's evaluations.
    workdir: holds `metrics.jsonl` and `starts.json`.
    state: what to measure.
    step: the state's step.
    origin: where the networks come from, if this run has not trained them.
  """
  experiment = bench.experiment
  with bench.encoding.remembering(state):
    figures = bench.run(state)
    broken = left_out.describe(bench.sources)
    if jax.process_index() > 0:
      return
    path = workdir / "results.json"
    before = _read_json(path, {})
    circumstances = _circumstances(experiment, origin)
    if experiment.config.mode == "finetune":
      results = circumstances | before
      for name, found in figures.items():
        for choice, each in found.items():
          added = {choice: each | {"step": step}}
          results[name] = results.get(name, {}) | added
      rows = _titled(bench.evaluations, results)
    else:
      results = {
        "step": step,
        "data": {"broken": broken},
        "untrained": _untrained(workdir, experiment, figures.get("knn")),
        "figures": figures,
        "finetune": before.get("finetune", {}),
        "training": _training(workdir, experiment),
        **circumstances,
      }
      rows = _rows(bench, results, broken)
    results["rows"] = results.get("rows", {}) | {
      evaluation.name: evaluation.rows(found)
      for evaluation in bench.evaluations
      if (found := _figures_of(results, evaluation))
    }
    logs.write_json(path, results)
    shutil.rmtree(workdir / "probe", ignore_errors=True)
    rows.append(("results", str(path)))
    if experiment.config.mode != "finetune":
      picture = pictures.write_summary(workdir, bench, state)
      rows.append(("picture", str(picture)))
  logs.summary_table(_title(experiment, step, origin), rows)


def _figures_of(results: Mapping[str, Any], evaluation: Evaluation) -> Any:
  """An evaluation's figures in `results.json`."""
  here = results.get("figures", {}).get(evaluation.name)
  return here or results.get(evaluation.name)


def _titled(
  evaluations: Iterable[Evaluation], results: Mapping[str, Any]
) -> list[tuple[str, str]]:
  """The lines of the table: every figure with its protocol."""
  return [
    (row.title + (f" ({row.note})" if row.note else ""), row.value)
    for evaluation in evaluations
    if (found := _figures_of(results, evaluation))
    for row in evaluation.rows(found)
  ]


def _rows(
  bench: bench_lib.Bench, results: Mapping[str, Any], broken: Any
) -> list[tuple[str, str]]:
  rows = []
  if left := left_out.tell(broken):
    rows.append(("images that cannot be read, left out", left))
  if "knn_top1" in results["untrained"]:
    untrained = results["untrained"]["knn_top1"]
    is_import = bench.experiment.config.init_from is not None
    name = "encoder before training" if is_import else "untrained encoder"
    rows.append((f"kNN top-1, {name}", f"{untrained:.2f}%"))
  known = [*bench.evaluations, *config_lib.evaluations(bench.experiment.config)]
  rows += _titled(dict.fromkeys(known), results)
  return rows + _training_rows(results["training"])


def _circumstances(
  experiment: experiment_lib.Experiment, origin: weights.Origin | None
) -> dict[str, Any]:
  """Machine, config, and where the networks come from."""
  found = {
    "environment": environment.describe(),
    "config": config_lib.to_dict(experiment.config),
  }
  if origin:
    found["initialised_from"] = dataclasses.asdict(origin)
  return found


def _title(
  experiment: experiment_lib.Experiment,
  step: int,
  origin: weights.Origin | None,
) -> str:
  if origin:
    return f"{origin.path} on {experiment.config.data.name}"
  return f"{experiment.name}, step {step:,}"


def _read_json(path: pathlib.Path, default: Any) -> Any:
  return json.loads(path.read_text()) if path.exists() else default


def _training(
  workdir: pathlib.Path, experiment: experiment_lib.Experiment
) -> dict[str, Any]:
  """Steps, time and speed over all starts, and the last step's metrics."""
  starts = starts_lib.read(workdir)
  if not starts:
    return {}
  timed = sum(record["timed_seconds"] for record in starts)
  images = experiment.config.batch_size * sum(
    record["timed_steps"] for record in starts
  )
  speed = images / timed if images else None
  steps = starts[-1]["end_step"]
  return {
    "steps": steps,
    "starts": len(starts),
    "wall_seconds": sum(record["wall_seconds"] for record in starts),
    "source_images_per_second": speed,
    "encoder_images_per_second": speed
    and speed * experiment.encodings_per_image,
    "last_step": _logged(workdir, steps),
  }


def _untrained(
  workdir: pathlib.Path,
  experiment: experiment_lib.Experiment,
  knn: dict[str, Any] | None,
) -> dict[str, Any]:
  """The monitor's figures at step 0, if the kNN at the end is comparable."""
  figures = _logged(workdir, 0)
  if not knn or not figures:
    return {}
  now = to_json(config_lib.to_dict(experiment.config)["knn"])
  begun_with = read_config(workdir)
  if begun_with.get("knn") != now:
    return {}
  images = experiment.config.measures.images
  if begun_with.get("measures", {}).get("images") != images:
    # Ranks of another number of images are no comparison.
    figures = {k: v for k, v in figures.items() if k.startswith("knn_")}
  protocol = {k: v for k, v in knn.items() if not k.startswith("knn_")}
  return figures | protocol


def _logged(workdir: pathlib.Path, step: int) -> dict[str, Any]:
  """What `metrics.jsonl` holds for a step; nothing if it was not logged."""
  path = workdir / "metrics.jsonl"
  figures: dict[str, Any] = {}
  lines = path.read_text().splitlines() if path.exists() else []
  for record in map(json.loads, lines):
    if record.pop("step") == step:
      figures |= record
  figures.pop("wall_time", None)
  return figures


def _training_rows(training: dict[str, Any]) -> list[tuple[str, str]]:
  if not training.get("source_images_per_second"):
    return []
  return [
    (
      "training speed",
      f"{training['source_images_per_second']:,.0f} source images/s,"
      f" {training['encoder_images_per_second']:,.0f} through the encoder",
    ),
    ("training time", f"{training['wall_seconds']:,.0f} s"),
  ]
