"""What a run leaves behind: `results.json`, a picture and one table."""

import json
import pathlib
from typing import Any

import jax

from essl_jax import config as config_lib
from essl_jax import environment, logs, pictures
from essl_jax import experiment as experiment_lib
from essl_jax import step as step_lib
from essl_jax.evaluation import suite as suite_lib


def write(
  workdir: pathlib.Path,
  experiment: experiment_lib.Experiment,
  suite: suite_lib.Suite,
  state: step_lib.TrainState,
  step: int,
  training: dict[str, Any] | None,
) -> dict[str, Any]:
  """Measures a state and writes everything that is known of its run.

  Args:
    workdir: holds `metrics.jsonl` and perhaps earlier results.
    experiment: the run's parts.
    suite: its measures.
    state: what to measure.
    step: the state's step.
    training: figures from `train.pretrain`; None, or no step done, keeps
      those of the earlier results.

  Returns:
    What `results.json` holds.
  """
  path = workdir / "results.json"
  if training is None or training["resumed_from_step"] == training["steps"]:
    earlier = json.loads(path.read_text()) if path.exists() else {}
    training = earlier.get("training", training)
  # All processes take part in encoding; only one of them writes.
  train, test = (suite.features(state, split) for split in ("train", "test"))
  with logs.progress_bar("linear probe") as progress:
    figures = suite.run(state, train, test, progress)
  results = {
    "step": step,
    "untrained": _logged(workdir / "metrics.jsonl", step=0),
    "figures": figures,
    "training": training,
    "environment": environment.describe(),
    "config": config_lib.to_dict(experiment.config),
  }
  if jax.process_index() == 0:
    logs.write_json(path, results)
    rows = _rows(results)
    rows.append(("results", str(path)))
    picture = pictures.write_summary(workdir, experiment, state, test)
    if picture:
      rows.append(("picture", str(picture)))
    logs.summary_table(f"{experiment.name}, step {step:,}", rows)
  return results


def _logged(path: pathlib.Path, step: int) -> dict[str, Any]:
  """What `metrics.jsonl` holds for a step; nothing if it was not logged."""
  figures: dict[str, Any] = {}
  lines = path.read_text().splitlines() if path.exists() else []
  for record in map(json.loads, lines):
    if record.pop("step") == step:
      figures |= record
  figures.pop("wall_time", None)
  return figures


def _rows(results: dict[str, Any]) -> list[tuple[str, str]]:
  """The table's rows: every figure with its protocol."""
  figures, training = results["figures"], results["training"]
  rows = []
  if "knn_top1" in results["untrained"]:
    untrained = results["untrained"]["knn_top1"]
    rows.append(("kNN top-1, untrained encoder", f"{untrained:.2f}%"))
  knn = figures["knn"]
  rows.append(
    (
      f"kNN top-1, k {knn['k']}, temperature {knn['temperature']:g}",
      f"{knn['knn_top1']:.2f}%",
    )
  )
  if "linear_probe" in figures:
    probe = figures["linear_probe"]
    rows.append(
      (
        f"linear probe top-1, {probe['protocol']} protocol,"
        f" {probe['repetitions']} x {probe['epochs']} epochs",
        f"{probe['linear_top1']:.2f}% +- {probe['linear_top1_std']:.2f}",
      )
    )
  if "transformation" in figures:
    found = figures["transformation"]
    chance = 100 / len(found["per_element"])
    rows.append(
      (
        f"{found['group']} recognised on test images",
        f"{found['transformation_accuracy']:.2f}% (chance {chance:.1f}%)",
      )
    )
  if training and training["source_images_per_second"]:
    rows.append(
      (
        "training speed",
        f"{training['source_images_per_second']:,.0f} source images/s,"
        f" {training['encoder_images_per_second']:,.0f} through the encoder",
      )
    )
    rows.append(("training time", f"{training['wall_seconds']:,.0f} s"))
  return rows
