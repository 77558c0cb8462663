"""Turns a trace and a compiled step into a table of where the time goes."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import hlo_parts
import hlo_text
import trace_reader

PROGRAMS = "input and other programs"
UNKNOWN = "unknown to the program"
TOP = 20
# The order of parts in a step, by the beginning of their names.
ORDER = (
  PROGRAMS,
  "augmentation",
  "encoder",
  *hlo_parts.HEADS.values(),
  *("losses", "exchange", "optimizer", "metrics", hlo_parts.OTHER),
)


def summarise(
  runs: list[trace_reader.Run],
  ops: Mapping[str, hlo_parts.Op],
  module: str,
  steps: int,
) -> dict[str, Any]:
  """Adds up the runs of all operations by part and by kind.

  Args:
    runs: runs on one device, over several steps.
    ops: operations of the step's program.
    module: name of the step's program; runs of others count as `PROGRAMS`.
    steps: number of traced steps.

  Returns:
    `total_seconds` of a step, from the first operation to the last;
    `gap_seconds` and `gap_percent`, the part of it without any operation;
    `parts`, `kinds` and the longest operations, each with `seconds` and `flops`
    of one step and `percent` of the total; `inferred_percent` in operations
    whose part is inferred; `unknown_percent` in those that are not in the
    program.
  """
  nothing = hlo_parts.Op(hlo_parts.Place(UNKNOWN), "other", 0, "", True)
  foreign = nothing._replace(place=hlo_parts.Place(PROGRAMS))

  def find(program: str, name: str) -> hlo_parts.Op:
    if program in ("", module):
      return ops.get(name, nothing)
    return foreign

  is_container = lambda run: (
    find(run.module, run.op).opcode in hlo_text.CONTAINERS
  )
  shares = trace_reader.share(runs, is_container)
  places: dict[hlo_parts.Place, Counter[str]] = defaultdict(Counter)
  kinds: dict[str, Counter[str]] = defaultdict(Counter)
  inferred, longest = 0.0, []
  for (program, name), spent in shares.seconds.items():
    op, runs_a_step = find(program, name), shares.runs[program, name] / steps
    seconds, flops = spent / steps, op.flops * runs_a_step
    for counter in (places[op.place], kinds[op.kind]):
      counter.update({"seconds": seconds, "flops": flops})
    inferred += 0.0 if op.is_named else spent
    longest.append(
      {
        "op": name,
        "part": op.place.part,
        "direction": op.place.direction,
        "kind": op.kind,
        "runs": runs_a_step,
        "seconds": seconds,
        "flops": flops,
      }
    )
  total = shares.total / steps
  percent = lambda seconds: 100 * seconds / total if total else 0.0
  row = lambda counter: {
    "seconds": counter["seconds"],
    "percent": percent(counter["seconds"]),
    "flops": counter["flops"],
  }
  parts = [{**place._asdict(), **row(x)} for place, x in places.items()]
  by_kind = [{"kind": kind, **row(x)} for kind, x in kinds.items()]
  largest_first = lambda x: -x["seconds"]
  return {
    "total_seconds": total,
    "gap_seconds": shares.gap / steps,
    "gap_percent": percent(shares.gap / steps),
    "inferred_percent": percent(inferred / steps),
    "unknown_percent": percent(places[hlo_parts.Place(UNKNOWN)]["seconds"]),
    "parts": sorted(parts, key=place_in_step),
    "kinds": sorted(by_kind, key=largest_first),
    "longest": sorted(longest, key=largest_first)[:TOP],
  }


def place_in_step(row: Mapping[str, Any]) -> tuple[int, str, bool]:
  """Sort key: the order of parts in a step."""
  starts = [row["part"].startswith(name) for name in ORDER]
  number = starts.index(True) if True in starts else len(ORDER)
  return number, row["part"], row["direction"] == hlo_parts.BACKWARD


def roofline(
  flops: float,
  matrix_flops: int,
  accessed: float,
  peaks: Mapping[str, float],
  step_seconds: float,
) -> dict[str, Any]:
  """Computes the least time of a step, and how close it comes.

  Args:
    flops: operations by XLA's count; 0 if there is none.
    matrix_flops: operations of products and convolutions, as JAX traces the
      step.
    accessed: bytes by XLA's count; 0 if there is none.
    peaks: `flops_per_second` and `bytes_per_second` of the device.
    step_seconds: the measured time.

  Returns:
    The larger of the times for arithmetic and for memory, which of the two it
    is, and its share of the measured time. XLA's count of arithmetic is used
    unless it misses matrix operations: library calls, or iterations of loops.
  """
  misses = flops < 0.99 * matrix_flops
  used = matrix_flops if misses else flops
  times = {
    "arithmetic": used / peaks["flops_per_second"],
    "memory": accessed / peaks["bytes_per_second"],
  }
  limit = max(times, key=lambda name: times[name])
  return {
    "xla_flops": flops,
    "matrix_flops": matrix_flops,
    "flops": used,
    "flops_source": "traced matrices" if misses else "XLA",
    "bytes": accessed,
    **peaks,
    "arithmetic_seconds": times["arithmetic"],
    "memory_seconds": times["memory"],
    "bound_seconds": times[limit],
    "limit": limit,
    "achieved": times[limit] / step_seconds,
  }


def table(record: Mapping[str, Any]) -> str:
  """The whole record as Markdown."""
  peak = record["roofline"]["flops_per_second"]
  lines = [
    "| part | ms | of it backward | % of the step | GFLOP | % of the peak |",
    "|---|---|---|---|---|---|",
  ]
  parts: dict[str, Counter[str]] = defaultdict(Counter)
  for row in record["parts"]:
    values = {key: row[key] for key in ("seconds", "percent", "flops")}
    parts[row["part"]].update(values)
    if row["direction"] == hlo_parts.BACKWARD:
      parts[row["part"]]["backward"] += row["seconds"]
  lines += [_row(name, x, peak) for name, x in parts.items()]
  gap = {key: record[f"gap_{key}"] for key in ("seconds", "percent")}
  lines.append(_row("no operation", Counter(gap), peak))
  total = {"seconds": record["total_seconds"], "percent": 100.0}
  lines += [
    _row("**step**", Counter(total), peak),
    "",
    "| kind | ms | % of the step | GFLOP | % of the peak |",
    "|---|---|---|---|---|",
  ]
  for row in record["kinds"]:
    cells = _row(row["kind"], Counter(row | {"kind": 0}), peak).split(" | ")
    lines.append(" | ".join(cells[:2] + cells[3:]))
  return "\n".join([*lines, "", *_sentences(record)])


def _row(name: str, values: Counter[str], peak: float) -> str:
  dash, seconds = "–", values["seconds"]
  rate = values["flops"] / seconds if seconds else 0.0
  cells = [
    name,
    f"{1000 * seconds:.2f}",
    f"{1000 * values['backward']:.2f}" if values["backward"] else dash,
    f"{values['percent']:.1f}",
    f"{values['flops'] / 1e9:.3g}" if values["flops"] else dash,
    f"{100 * rate / peak:.0f}" if values["flops"] else dash,
  ]
  return f"| {' | '.join(cells)} |"


def _sentences(record: Mapping[str, Any]) -> list[str]:
  """Facts that are not in the tables, as a list."""
  roof = record["roofline"]
  found = [
    f"- A step takes {1000 * record['step_seconds']:.2f} ms without the trace,"
    f" {1000 * record['total_seconds']:.2f} ms with it.",
    f"- At least {1000 * roof['bound_seconds']:.2f} ms by {roof['limit']}"
    f" ({roof['flops'] / 1e9:.4g} GFLOP by {roof['flops_source']},"
    f" {roof['bytes'] / 1e9:.3g} GB; measured peaks"
    f" {roof['flops_per_second'] / 1e12:.3g} TFLOP/s and"
    f" {roof['bytes_per_second'] / 1e9:.3g} GB/s):"
    f" the step reaches {100 * roof['achieved']:.0f}% of this.",
    f"- The part of {record['inferred_percent']:.1f}% of the time is inferred:"
    " the compiler kept no name.",
  ]
  if record["input_seconds"] is not None:
    found.append(
      f"- The host spends {1000 * record['input_seconds']:.2f} ms on the next"
      " batch."
    )
  if record["unknown_percent"] > 1:
    found.append(
      f"- {record['unknown_percent']:.0f}% of the time is in operations without"
      " a name. On NVIDIA GPUs XLA_FLAGS=--xla_gpu_enable_command_buffer= runs"
      " them one by one, with names."
    )
  return found
