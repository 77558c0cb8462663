"""Records the training time of each start of the program in `starts.json`."""

import json
from typing import Any

from essl_jax.storage import places
from essl_jax.storage import workdir as workdir_lib

FIELDS = (
  "start_step",
  "end_step",
  "wall_seconds",
  "timed_steps",
  "timed_seconds",
)


def read(workdir: places.Path) -> list[dict[str, Any]]:
  """Reads the records of all starts; empty if nothing was trained."""
  path = workdir / "starts.json"
  return json.loads(path.read_text("utf-8")) if places.exists(path) else []


def reach(workdir: places.Path, step: int) -> bool:
  """Whether `starts.json` has a start that ended at this step or later.

  A start that was killed between its last save and its record is missing.
  """
  return any(start["end_step"] >= step for start in read(workdir))


def record(workdir: places.Path, start: dict[str, float]) -> None:
  """Records how long a start of the program has trained.

  Call it with every checkpoint, so that a killed start counts up to the step
  from which the next one resumes.

  Args:
    workdir: of the run.
    start: `start_step`, `end_step`, `wall_seconds`, and the `timed_steps` that
      took `timed_seconds` without compilation, evaluation and saving.
  """
  earlier = [
    other
    for other in read(workdir)
    if other["start_step"] < start["start_step"]
  ]
  workdir_lib.write_json(workdir / "starts.json", [*earlier, start])
