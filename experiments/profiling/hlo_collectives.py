"""Finds collectives in the text of a compiled program."""

import hlo_text

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)


def collectives(text: str) -> dict[str, dict[str, int]]:
  """Counts the collectives in one run of a program.

  Args:
    text: text of a compiled program, `compiled.as_text()`.

  Returns:
    By kind, `count` and `bytes` of the results on one chip, summed over the
    arrays that one collective combines, times the runs of the loop around it;
    `largest` is the bytes of the largest one.
  """
  lines = hlo_text.instructions(text)
  runs = hlo_text.count_runs(lines)
  totals: dict[str, dict[str, int]] = {}
  for line in lines:
    kind = line.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
      continue
    times, size = runs[line.computation], hlo_text.result_bytes(line)
    total = totals.setdefault(kind, {"count": 0, "bytes": 0, "largest": 0})
    total["count"] += times
    total["bytes"] += times * size
    total["largest"] = max(total["largest"], size)
  return dict(sorted(totals.items()))


def overlaps(text: str) -> dict[str, int]:
  """Counts collectives that the schedule overlaps with other work.

  Args:
    text: of a compiled program, `compiled.as_text()`, in the order in which
      it runs.

  Returns:
    `count` and `bytes` of results, as in `collectives`, for those between whose
    start and end another kind of operation starts.
  """
  lines = hlo_text.instructions(text)
  runs = hlo_text.count_runs(lines)
  work = {x.line.name for x in hlo_text.launches(text)}
  total = {"count": 0, "bytes": 0}
  for i, line in enumerate(lines):
    kind = line.opcode.removesuffix("-start")
    is_open = line.opcode != kind and '"is_sync":true' not in line.rest
    if kind not in COLLECTIVES or not is_open:
      continue
    for other in lines[i + 1 :]:
      if other.opcode == f"{kind}-done" and f"%{line.name})" in other.rest:
        break
      is_other = other.opcode.removesuffix("-start") not in COLLECTIVES
      if other.name in work and is_other:
        total["count"] += runs[line.computation]
        total["bytes"] += runs[line.computation] * hlo_text.result_bytes(line)
        break
  return total
