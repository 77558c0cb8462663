"""The training time and speed of a run."""

from typing import Any

from essl_jax.storage import metrics, places
from essl_jax.storage import starts as starts_lib
from essl_jax.training import experiment as experiment_lib


def training(
  workdir: places.Path, experiment: experiment_lib.Experiment
) -> dict[str, Any]:
  """Steps, time and speed over all starts, and metrics of the last step.

  Args:
    workdir: contains `starts.json` and the metrics.
    experiment: the run's experiment.

  Returns:
    The figures; empty for a run that has not trained.
  """
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
    "last_step": metrics.at(workdir, steps),
  }


def rows(training: dict[str, Any]) -> list[tuple[str, str]]:
  """Speed and time as lines of the table."""
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
