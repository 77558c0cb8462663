"""Adds up the kernels, traffic and arithmetic of a GPU in one step."""

from collections import Counter, defaultdict
from typing import Any

import hlo_parts
import hlo_text
import profile_report


def summarise(text: str) -> dict[str, Any]:
  """Counts kernels, and the bytes that they read and write, by part.

  Args:
    text: text of a step compiled for GPUs, `compiled.as_text()`.

  Returns:
    Total `count` and `bytes`, and `parts`: `part`, `direction`, `count`,
    `bytes` and `flops` of each, in the order of a step. Bytes are those of
    operands and results; in fact, values in a cache are not read from memory.
  """
  ops = hlo_parts.read(text)
  places: dict[hlo_parts.Place, Counter[str]] = defaultdict(Counter)
  for launch in hlo_text.launches(text):
    op = ops[launch.line.name]
    places[op.place].update(
      count=launch.times,
      bytes=launch.times * launch.bytes,
      flops=launch.times * op.flops,
    )
  parts = [{**place._asdict(), **sums} for place, sums in places.items()]
  return {
    "count": sum(row["count"] for row in parts),
    "bytes": sum(row["bytes"] for row in parts),
    "parts": sorted(parts, key=profile_report.place_in_step),
  }
