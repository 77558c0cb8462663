"""Training time of each start of the program, in `starts.json`."""

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
  """The records of all starts; none where nothing was trained."""
  path = workdir / "starts.json"
  return json.loads(path.read_text("utf-8")) if places.exists(path) else []


def reach(workdir: places.Path, step: int) -> bool:
  """Whether a start is on record that ended at a step or later.

  A start that was ended between its last save and its record is not.
  """
  return any(start["end_step"] >= step for start in read(workdir))


def record(workdir: places.Path, start: dict[str, float]) -> None:
  """Notes how long a start of the program has trained.

  Called with every checkpoint, so that a killed start is counted up to the
  step from which the next one goes on.

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
