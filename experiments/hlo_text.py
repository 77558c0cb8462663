"""Reads the text of a compiled program: what runs, moves and is exchanged."""

from collections.abc import Iterator
import re
from typing import NamedTuple

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z\d-]*)\((.*)$"
)
_SHAPE = re.compile(r"\b(pred|bf16|[a-z]\d+)\w*\[([\d,]*)\]")
_CALLED = re.compile(
  r"\b(?:calls|to_apply|body|condition|called_computations)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_APPLIED = re.compile(r"\bto_apply=%?([\w.-]+)")
_SLICES = ("slice", "dynamic-slice", "gather")
# What names or holds values, or runs other computations.
_SILENT = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
  *("while", "call", "conditional", "after-all", "opt-barrier"),
  *("partition-id", "replica-id"),
}


class Instruction(NamedTuple):
  """One line of a program.

  Attributes:
    computation: the function it is in.
    name: of its result.
    shape: of its result, as text.
    opcode: such as `all-reduce`.
    rest: what follows the opening parenthesis.
  """

  computation: str
  name: str
  shape: str
  opcode: str
  rest: str


class Launch(NamedTuple):
  """An operation that a device runs by itself.

  Attributes:
    line: of the program.
    times: how often it runs in one run of the program.
    bytes: of its operands and results, once.
  """

  line: Instruction
  times: int
  bytes: int


def instructions(text: str) -> Iterator[Instruction]:
  """All lines of a program in HLO's text form."""
  computation = ""
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      computation = "ENTRY" if header[1] else header[2]
    elif found := _INSTRUCTION.match(line):
      yield Instruction(computation, *found.groups())


def array_bytes(shape: str) -> list[int]:
  """Bytes of every array in a shape such as `(f32[8,2]{1,0}, bf16[4]{0})`."""
  sizes = []
  for dtype, dimensions in _SHAPE.findall(shape):
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
    count = 1
    for size in filter(None, dimensions.split(",")):
      count *= int(size)
    sizes.append(count * bits // 8)
  return sizes


def collectives(text: str) -> dict[str, dict[str, int]]:
  """Counts what chips exchange in one run of a program.

  Args:
    text: of a compiled program, `compiled.as_text()`.

  Returns:
    By kind `count` and `bytes`: of the results on one chip, summed over the
    arrays that one collective combines, times the runs of the loop around it;
    `largest` is the bytes of the largest one.
  """
  lines = list(instructions(text))
  runs = _runs(lines)
  totals: dict[str, dict[str, int]] = {}
  for line in lines:
    kind = line.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
      continue
    times, size = runs[line.computation], _result_bytes(line)
    total = totals.setdefault(kind, {"count": 0, "bytes": 0, "largest": 0})
    total["count"] += times
    total["bytes"] += times * size
    total["largest"] = max(total["largest"], size)
  return dict(sorted(totals.items()))


def rearrangements(text: str) -> dict[str, dict[str, int]]:
  """Counts copies and transposes that no fusion has swallowed.

  `prefetch` are asynchronous copies, most of them between the chip's memories
  and hidden behind arithmetic; `copy` and `transpose` change a layout.

  Args:
    text: of a compiled program, `compiled.as_text()`.

  Returns:
    By kind `count` and `bytes` of results, times the runs of loops around.
  """
  lines = list(instructions(text))
  runs, fused = _runs(lines), _fused(lines)
  kinds = {"copy": "copy", "transpose": "transpose", "copy-start": "prefetch"}
  totals = {kind: {"count": 0, "bytes": 0} for kind in kinds.values()}
  for line in lines:
    if line.opcode not in kinds or line.computation in fused:
      continue
    times, total = runs[line.computation], totals[kinds[line.opcode]]
    total["count"] += times
    total["bytes"] += times * array_bytes(line.shape)[0]
  return totals


def launches(text: str) -> list[Launch]:
  """What a device runs one by one: no more than a kernel each on a GPU.

  Args:
    text: of a compiled program, `compiled.as_text()`.

  Returns:
    All operations but those inside of fusions and reductions, those that
    compute nothing, and the ends of asynchronous ones.
  """
  lines = list(instructions(text))
  runs, hidden = _runs(lines), _fused(lines)
  for line in lines:
    if line.opcode != "call" and (found := _APPLIED.search(line.rest)):
      hidden.add(found[1])
  sizes = {line.name: sum(array_bytes(line.shape)) for line in lines}
  parts = _parts_read(lines, sizes)
  found = []
  for line in lines:
    is_end = line.opcode.endswith("-done")
    if line.computation in hidden or line.opcode in _SILENT or is_end:
      continue
    moved = sizes[line.name]
    for i, name in enumerate(operands(line)):
      whole = sizes.get(name, 0)
      moved += min([whole, *(parts.get((x, i), whole) for x in called(line))])
    found.append(Launch(line, runs[line.computation], moved))
  return found


def _parts_read(
  lines: list[Instruction], sizes: dict[str, int]
) -> dict[tuple[str, int], int]:
  """Bytes of parameters of which only slices are read.

  By computation and number of the parameter.
  """
  parts: dict[tuple[str, int], int] = {}
  numbers: dict[tuple[str, str], int] = {}
  for line in lines:
    if line.opcode == "parameter":
      number = int(line.rest.partition(")")[0])
      numbers[line.computation, line.name] = number
  whole = set()
  for line in lines:
    for i, name in enumerate(operands(line)):
      number = numbers.get((line.computation, name))
      if number is None:
        continue
      key = line.computation, number
      if line.opcode in _SLICES and i == 0:
        parts[key] = parts.get(key, 0) + sizes[line.name]
      else:
        whole.add(key)
  return {key: size for key, size in parts.items() if key not in whole}


def operands(line: Instruction) -> list[str]:
  """The names of what a line reads."""
  return re.findall(r"%([\w.-]+)", line.rest.partition(")")[0])


def overlaps(text: str) -> dict[str, int]:
  """Counts collectives behind which the schedule puts other work.

  Args:
    text: of a compiled program, `compiled.as_text()`, in the order in which
      it runs.

  Returns:
    `count` and `bytes` of results, as in `collectives`, of those that begin
    and let an operation that is none begin before they end.
  """
  lines = list(instructions(text))
  runs, work = _runs(lines), {x.line.name for x in launches(text)}
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
        total["bytes"] += runs[line.computation] * _result_bytes(line)
        break
  return total


def _result_bytes(line: Instruction) -> int:
  """Bytes of what a collective results in on one chip."""
  sizes = array_bytes(line.shape)
  is_pair = line.opcode.endswith("-start") and line.opcode != "all-reduce-start"
  if is_pair:
    # The result is (operands, results, contexts): the results are as many.
    count = len(operands(line))
    sizes = sizes[count : 2 * count]
  return sum(sizes)


def called(line: Instruction) -> list[str]:
  """The computations that a line runs."""
  names = _CALLED.findall(line.rest)
  for branches in _BRANCHES.findall(line.rest):
    names += re.findall(r"[\w.-]+", branches)
  return names


def _fused(lines: list[Instruction]) -> set[str]:
  """Computations that are the inside of fusions."""
  return {
    name for line in lines if line.opcode == "fusion" for name in called(line)
  }


def _turns(lines: list[Instruction]) -> dict[str, int]:
  """By the condition of a loop over `range(n)`, n; others are left out."""
  limits: dict[str, list[int]] = {}
  rising = set()
  for line in lines:
    if line.opcode == "constant" and line.shape.startswith("s32[]"):
      limits.setdefault(line.computation, []).append(
        int(line.rest.partition(")")[0])
      )
    if line.opcode == "compare" and "direction=LT" in line.rest:
      rising.add(line.computation)
  return {
    name: found[0]
    for name, found in limits.items()
    if len(found) == 1 and name in rising
  }


def _runs(lines: list[Instruction]) -> dict[str, int]:
  """How often each computation runs; loops of unknown length run once."""
  callers: dict[str, list[tuple[str, int]]] = {}
  turns = _turns(lines)
  for line in lines:
    times = 1
    if line.opcode == "while" and (found := _TRIPS.search(line.rest)):
      times = int(found[1])
    elif line.opcode == "while" and (found := _CONDITION.search(line.rest)):
      times = turns.get(found[1], 1)
    for name in called(line):
      callers.setdefault(name, []).append((line.computation, times))
  runs: dict[str, int] = {}

  def count(name: str) -> int:
    if name not in runs:
      runs[name] = 1 if name == "ENTRY" else 0
      runs[name] += sum(count(x) * times for x, times in callers.get(name, []))
    return runs[name]

  for line in lines:
    count(line.computation)
  return runs
