"""Reads and writes logged figures, in one file for each start of the program.

`metrics-S.jsonl` holds the figures of the start that resumed from step S, one
JSON object a line. They replace all figures that earlier starts logged after
step S. `metrics.jsonl`, written by earlier versions, counts as `metrics-0`.
"""

from collections.abc import Iterable, Mapping
import json
import re
from typing import Any

from essl_jax.storage import json_files, places

NAME = re.compile(r"metrics(?:-(0|[1-9]\d*))?\.jsonl")
Lines = list[dict[str, Any] | None]
"""One entry a line; None for a line that holds no JSON object."""


def path(workdir: places.Path, start: int) -> places.Path:
  """Returns the file of the start that resumes from a step."""
  return workdir / f"metrics-{start}.jsonl"


def files(workdir: places.Path) -> dict[int, places.Path]:
  """Returns a run's files, keyed and sorted by the step each starts from."""
  found = filter(None, map(NAME.fullmatch, places.names(workdir)))
  starts = sorted((int(x[1] or 0), x[1] or "", x[0]) for x in found)
  return {start: workdir / name for start, _, name in starts}


def read(workdir: places.Path, *, with_half: bool = False) -> Lines:
  """Reads a run's log, without steps that later starts repeated.

  Args:
    workdir: of the run.
    with_half: see `json_files.read_lines`.

  Returns:
    The lines of all files.

  Raises:
    ValueError: a file is not a regular file.
    OSError: a file cannot be read.
  """
  lines: Lines = []
  for start, file in files(workdir).items():
    lines = [x for x in lines if is_until(x, start)]
    lines += json_files.read_lines(file, with_half=with_half)
  return lines


def is_until(line: Mapping[str, Any] | None, start: int) -> bool:
  """Whether a line still counts for a run that resumes from step `start`."""
  step = (line or {}).get("step")
  return isinstance(step, int | float) and 0 <= step <= start > 0


def at(workdir: places.Path, step: int) -> dict[str, Any]:
  """Returns the figures of one step; empty if none were logged."""
  figures: dict[str, Any] = {}
  for line in read(workdir):
    if line is not None and line.pop("step", None) == step:
      figures |= line
  figures.pop("wall_time", None)
  return figures


def write(file: places.Path, lines: Iterable[Mapping[str, Any] | None]) -> None:
  """Replaces a file with these lines."""
  text = "".join(json.dumps(line) + "\n" for line in lines)
  places.replace_text(file, text)
