"""Reads the text of a compiled program: its collectives, copies, transposes."""

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
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")


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
    sizes = array_bytes(line.shape)
    if kind != "all-reduce" and line.opcode.endswith("-start"):
      # The result is (operands, results, contexts): the results are as many.
      operands = len(re.findall(r"%[\w.-]+", line.rest.partition(")")[0]))
      sizes = sizes[operands : 2 * operands]
    times = runs[line.computation]
    total = totals.setdefault(kind, {"count": 0, "bytes": 0, "largest": 0})
    total["count"] += times
    total["bytes"] += times * sum(sizes)
    total["largest"] = max(total["largest"], sum(sizes))
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
    if line.opcode == "while" and (found := _CONDITION.search(line.rest)):
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
