"""Figures of training by step, a file for each start of the program.

`metrics-S.jsonl` holds what the start that went on from step S has logged, one
JSON object a line. It takes the place of all that earlier starts have logged
after step S. `metrics.jsonl`, of earlier versions, counts as that of step 0.
"""

from collections.abc import Iterable, Mapping
import json
import re
from typing import Any

from essl_jax.storage import json_files, places

NAME = re.compile(r"metrics(?:-(0|[1-9]\d*))?\.jsonl")
Lines = list[dict[str, Any] | None]
"""None for a line that holds no JSON object."""


def path(workdir: places.Path, start: int) -> places.Path:
  """The file of the start that goes on from a step."""
  return workdir / f"metrics-{start}.jsonl"


def files(workdir: places.Path) -> dict[int, places.Path]:
  """The files of a run by the step that each begins from, in this order."""
  found = filter(None, map(NAME.fullmatch, places.names(workdir)))
  starts = sorted((int(x[1] or 0), x[1] or "", x[0]) for x in found)
  return {start: workdir / name for start, _, name in starts}


def read(workdir: places.Path, *, with_half: bool = False) -> Lines:
  """What a run has logged, without what later starts have done again.

  Args:
    workdir: of the run.
    with_half: see `json_files.read_lines`.

  Returns:
    The lines of all files.

  Raises:
    ValueError: one is no regular file.
    OSError: one cannot be read.
  """
  lines: Lines = []
  for start, file in files(workdir).items():
    lines = [x for x in lines if is_until(x, start)]
    lines += json_files.read_lines(file, with_half=with_half)
  return lines


def is_until(line: Mapping[str, Any] | None, start: int) -> bool:
  """Whether a line stays where a start goes on from a step."""
  step = (line or {}).get("step")
  return isinstance(step, int | float) and 0 <= step <= start > 0


def at(workdir: places.Path, step: int) -> dict[str, Any]:
  """The figures of one step; none where nothing was logged."""
  figures: dict[str, Any] = {}
  for line in read(workdir):
    if line is not None and line.pop("step", None) == step:
      figures |= line
  figures.pop("wall_time", None)
  return figures


def write(file: places.Path, lines: Iterable[Mapping[str, Any] | None]) -> None:
  """Writes lines as a whole file."""
  text = "".join(json.dumps(line) + "\n" for line in lines)
  places.replace_text(file, text)
