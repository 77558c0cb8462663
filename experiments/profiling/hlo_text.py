"""Parses the text of a compiled program: operations and bytes moved."""

from collections.abc import Sequence
import functools
import re
from typing import NamedTuple

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
_SLICES = ("slice", "dynamic-slice", "gather")
# Operations whose computations run line by line.
CONTAINERS = ("while", "call", "conditional")
# Operations that only name or hold values, or run other computations.
_SILENT = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
  *("after-all", "opt-barrier", "partition-id", "replica-id", *CONTAINERS),
}


class Instruction(NamedTuple):
  """One line of a program.

  Attributes:
    computation: the function it is in.
    name: name of its result.
    shape: shape of its result, as text.
    opcode: such as `all-reduce`.
    rest: text after the opening parenthesis.
  """

  computation: str
  name: str
  shape: str
  opcode: str
  rest: str


class Launch(NamedTuple):
  """An operation that a device runs by itself.

  Attributes:
    line: line of the program.
    times: how often it runs in one run of the program.
    bytes: bytes of its operands and results in one run.
  """

  line: Instruction
  times: int
  bytes: int


@functools.lru_cache(maxsize=1)
def instructions(text: str) -> tuple[Instruction, ...]:
  """All lines of a program in HLO text; cached for several counts."""
  computation, found = "", []
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      computation = "ENTRY" if header[1] else header[2]
    elif parts := _INSTRUCTION.match(line):
      found.append(Instruction(computation, *parts.groups()))
  return tuple(found)


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


def rearrangements(text: str) -> dict[str, dict[str, int]]:
  """Counts copies and transposes that are not part of a fusion.

  `prefetch` are asynchronous copies, most of them between the chip's memories
  and hidden behind arithmetic; `copy` and `transpose` change a layout.

  Args:
    text: text of a compiled program, `compiled.as_text()`.

  Returns:
    By kind, `count` and `bytes` of results, times the runs of loops around.
  """
  lines = instructions(text)
  runs, hidden = count_runs(lines), _hidden(lines)
  kinds = {"copy": "copy", "transpose": "transpose", "copy-start": "prefetch"}
  totals = {kind: {"count": 0, "bytes": 0} for kind in kinds.values()}
  for line in lines:
    if line.opcode not in kinds or line.computation in hidden:
      continue
    times, total = runs[line.computation], totals[kinds[line.opcode]]
    total["count"] += times
    total["bytes"] += times * array_bytes(line.shape)[0]
  return totals


def launches(text: str) -> list[Launch]:
  """The operations that a device runs one by one, mostly one GPU kernel each.

  Args:
    text: of a compiled program, `compiled.as_text()`.

  Returns:
    All operations except those inside fusions and reductions, those that
    compute nothing, and the ends of asynchronous ones. Their bytes are an upper
    estimate: an array that is partly written in place counts in full, and so
    does one that is sliced other than at the start of a fusion.
  """
  lines = instructions(text)
  runs, hidden = count_runs(lines), _hidden(lines)
  sizes = {line.name: sum(array_bytes(line.shape)) for line in lines}
  parts = _parts_read(lines, sizes)
  found = []
  for line in lines:
    is_end = line.opcode.endswith("-done")
    if line.computation in hidden or line.opcode in _SILENT or is_end:
      continue
    moved = result_bytes(line)
    for i, name in enumerate(operands(line)):
      whole = sizes.get(name, 0)
      moved += min([whole, *(parts.get((x, i), whole) for x in called(line))])
    found.append(Launch(line, runs[line.computation], moved))
  return found


def _parts_read(
  lines: Sequence[Instruction], sizes: dict[str, int]
) -> dict[tuple[str, int], int]:
  """Bytes read from parameters, if only slices of them are read.

  The keys are the computation and the number of the parameter.
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
  """The names of a line's operands."""
  return re.findall(r"%([\w.-]+)", line.rest.partition(")")[0])


def result_bytes(line: Instruction) -> int:
  """Bytes of a line's results; for an asynchronous start, those of its end."""
  sizes = array_bytes(line.shape)
  kind = line.opcode.removesuffix("-start")
  if kind == line.opcode or kind == "all-reduce":
    return sum(sizes)
  if kind == "copy":
    return sizes[0]
  # The result is (operands, results, contexts), with as many results as
  # operands.
  count = len(operands(line))
  return sum(sizes[count : 2 * count])


def called(line: Instruction) -> list[str]:
  """The computations that a line runs."""
  names = _CALLED.findall(line.rest)
  for branches in _BRANCHES.findall(line.rest):
    names += re.findall(r"[\w.-]+", branches)
  return names


def _hidden(lines: Sequence[Instruction]) -> set[str]:
  """Computations that run within one operation, such as a fusion's."""
  return {
    name
    for line in lines
    if line.opcode not in CONTAINERS
    for name in called(line)
  }


def _turns(lines: Sequence[Instruction]) -> dict[str, int]:
  """Trip counts n of loops over `range(n)`, by the loop's condition."""
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


def count_runs(lines: Sequence[Instruction]) -> dict[str, int]:
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
