"""What a run leaves behind: `results.json`, a picture and one table."""

from collections.abc import Callable
import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax

from essl_jax import config as config_lib
from essl_jax import tasks
from essl_jax.evaluation import left_out, pictures
from essl_jax.storage import environment, logs, weights
from essl_jax.storage.workdir import read_config, to_json
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib


def record_start(workdir: pathlib.Path, record: dict[str, float]) -> None:
  """Notes how long a start of the program has trained, in `starts.json`.

  Called with every checkpoint, so that a killed start is counted up to the
  step from which the next one goes on.

  Args:
    workdir: of the run.
    record: `start_step`, `end_step`, `wall_seconds`, and the `timed_steps`
      that took `timed_seconds` without compilation, evaluation and saving.
  """
  path = workdir / "starts.json"
  earlier = [
    other
    for other in _read_json(path, [])
    if other["start_step"] < record["start_step"]
  ]
  logs.write_json(path, [*earlier, record])


def write(
  workdir: pathlib.Path,
  experiment: experiment_lib.Experiment,
  task: tasks.Task,
  state: step_lib.TrainState,
  step: int,
  interrupt: Callable[[], None] = lambda: None,
  origin: weights.Origin | None = None,
) -> None:
  """Measures a state, writes all that is known of its run, prints a table.

  Args:
    workdir: holds `metrics.jsonl` and `starts.json`.
    experiment: the run's parts.
    task: its measures.
    state: what to measure.
    step: the state's step.
    interrupt: called between batches and the steps of a long probe, in all
      processes alike; may raise.
    origin: where the networks come from, if this run has not trained them.
  """
  at_random = origin.not_initialised if origin else {}
  has_head = "transformation_head" not in at_random
  figures, draw = task.measure(state, interrupt, workdir, has_head)
  broken = left_out.describe(task.sources)
  if jax.process_index() > 0:
    return
  path = workdir / "results.json"
  results = {
    "step": step,
    "data": {"broken": broken},
    "untrained": _untrained(workdir, experiment, figures.get("knn")),
    "figures": figures,
    "finetune": _read_json(path, {}).get("finetune", {}),
    "training": _training(workdir, experiment),
    **_circumstances(experiment, origin),
  }
  logs.write_json(path, results)
  shutil.rmtree(workdir / "probe", ignore_errors=True)
  rows = [*task.rows(results), *_training_rows(results["training"])]
  if left := left_out.tell(broken):
    rows.insert(0, ("images that cannot be read, left out", left))
  rows += [*_finetune_rows(results["finetune"]), ("results", str(path))]
  picture = pictures.write_summary(workdir, experiment, state, draw)
  if picture:
    rows.append(("picture", str(picture)))
  logs.summary_table(_title(experiment, step, origin), rows)


def write_finetune(
  workdir: pathlib.Path,
  experiment: experiment_lib.Experiment,
  task: tasks.Task,
  state: step_lib.TrainState,
  step: int,
  interrupt: Callable[[], None] = lambda: None,
  origin: weights.Origin | None = None,
) -> None:
  """Fine-tunes a state and adds the figures to `results.json`.

  They stand under `finetune`, by the labels used; all else in the file stays.

  Args:
    workdir: as for `write`, like the others.
    experiment: the run's parts.
    task: its measures.
    state: whose encoder to begin with.
    step: the state's step.
    interrupt: called between steps, in all processes alike; may raise.
    origin: where the encoder comes from, if this run has not trained it.
  """
  figures = task.finetune(state, interrupt, workdir)
  if jax.process_index() > 0:
    return
  settings = experiment.config.finetune
  name = f"{100 * settings.labels:g}%"
  if settings.subset:
    name += f", subset {settings.subset}"
  if settings.label_list is not None:
    name = pathlib.Path(settings.label_list).name
  path = workdir / "results.json"
  results = _circumstances(experiment, origin) | _read_json(path, {})
  results.setdefault("finetune", {})[name] = figures | {"step": step}
  logs.write_json(path, results)
  shutil.rmtree(workdir / "probe", ignore_errors=True)
  rows = [*_finetune_rows(results["finetune"]), ("results", str(path))]
  logs.summary_table(_title(experiment, step, origin), rows)


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
  starts = _read_json(workdir / "starts.json", [])
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
  now = to_json(dataclasses.asdict(experiment.config.knn))
  if not knn or not figures:
    return {}
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


def _finetune_rows(finetune: dict[str, Any]) -> list[tuple[str, str]]:
  return [
    (
      f"fine-tuned on {name} of the labels ({figures['num_train']:,} images)"
      f" top-1, {figures['epochs']} epochs",
      f"{figures['finetune_top1']:.2f}%",
    )
    for name, figures in finetune.items()
  ]
