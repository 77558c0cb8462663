"""Assigns the operations of a compiled step to parts and kinds.

For most operations, the compiled text keeps the names of the Flax modules and
of the scopes in `essl_jax.training.step` that they come from. The others
(copies that the compiler adds, products whose name it loses) are assigned to
the part they work for.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
import re
from typing import NamedTuple

import hlo_collectives
import hlo_flops
import hlo_text

FORWARD, BACKWARD = "forward", "backward"
HEADS = {
  "projector": "projector",
  "predictor": "predictor",
  "transformation_head": "transformation head",
  "classifier": "online classifier",
}
SCOPES = {
  "losses": "losses",
  "augmentation": "augmentation",
  "exchange": "exchange of gradients",
  "optimizer": "optimizer",
  "target": "target network",
  "metrics": "metrics",
}
STEM, OTHER = "encoder: stem, pooling", "other"

_OP_NAME = re.compile(r'\bop_name="([^"]*)"')
_STAGE = re.compile(r"layer(\d+)_\d+$")
_MOVES = {
  *("copy", "transpose", "reshape", "bitcast", "concatenate", "slice", "pad"),
  *("dynamic-slice", "dynamic-update-slice", "reverse", "broadcast", "tuple"),
  *("get-tuple-element", "parameter", "constant", "iota", "convert"),
  *("copy-start", "copy-done", "bitcast-convert"),
}
_OTHERS = {"sort", "gather", "scatter", "custom-call", "rng", "fft"}


class Place(NamedTuple):
  """The part of the program to which an operation belongs.

  Attributes:
    part: such as `encoder: layer1` or `losses`.
    direction: `forward`, `backward`, or empty for neither.
  """

  part: str
  direction: str = ""


class Op(NamedTuple):
  """An operation that can appear in a trace.

  Attributes:
    place: the part it belongs to.
    kind: `convolution`, `dot`, `reduction`, `copy`, `elementwise`,
      `collective` or `other`.
    flops: arithmetic of its convolutions and products in one run.
    opcode: the compiler's opcode.
    is_named: whether the compiler kept a name; otherwise the part is inferred.
  """

  place: Place
  kind: str
  flops: int
  opcode: str
  is_named: bool


def place_of(op_name: str) -> Place | None:
  """The place for a name that JAX gave an operation; None without a path."""
  words = op_name.split("/")
  if len(words) < 2:
    return None
  plain = [re.sub(r"^(?:\w+\()*([\w.]*)\)*$", r"\1", word) for word in words]
  scope = next((SCOPES[word] for word in plain if word in SCOPES), None)
  if scope and scope != "losses":
    return Place(scope)
  direction = BACKWARD if "transpose(" in op_name else FORWARD
  if scope:
    return Place(scope, direction)
  for i, word in enumerate(plain):
    if word in HEADS:
      return Place(HEADS[word], direction)
    if word == "encoder":
      found = [_STAGE.match(inner) for inner in plain[i + 1 :]]
      stages = [f"encoder: layer{match[1]}" for match in found if match]
      return Place(stages[0] if stages else STEM, direction)
  return Place(OTHER, direction if "jvp(" in op_name else "")


def read(text: str) -> dict[str, Op]:
  """Describes all operations of a compiled program, by their names.

  Args:
    text: from `compiled.as_text()`.

  Returns:
    One entry for each operation, including those inside fusions.
  """
  lines = hlo_text.instructions(text)
  inside: dict[str, list[hlo_text.Instruction]] = {}
  for line in lines:
    inside.setdefault(line.computation, []).append(line)
  shapes = {line.name: line.shape for line in lines}
  own_flops = {line.name: hlo_flops.count(line, shapes) for line in lines}
  kinds: dict[str, str] = {}
  flops: dict[str, int] = {}
  named: dict[str, Place] = {}
  for line in lines:
    body = _body(line, inside)
    kinds[line.name] = _kind(line, body)
    flops[line.name] = sum(own_flops[x.name] for x in (line, *body))
    place = _own_place(line) or _most(map(_own_place, body))
    if place:
      named[line.name] = place
  places = _infer(lines, named, kinds)
  return {
    line.name: Op(
      places.get(line.name, Place(OTHER)),
      kinds[line.name],
      flops[line.name],
      line.opcode,
      line.name in named,
    )
    for line in lines
  }


def _own_place(line: hlo_text.Instruction) -> Place | None:
  found = _OP_NAME.search(line.rest)
  return place_of(found[1]) if found else None


def _most(places: Iterable[Place | None]) -> Place | None:
  """The most frequent place, among backward ones if there are any.

  The backward pass reads values of the forward pass, so a fusion of both
  belongs to the backward pass.
  """
  counts = Counter(place for place in places if place)
  backward = {x: n for x, n in counts.items() if x.direction == BACKWARD}
  chosen = backward or counts
  return max(chosen, key=lambda place: chosen[place]) if chosen else None


def _body(
  line: hlo_text.Instruction, inside: dict[str, list[hlo_text.Instruction]]
) -> list[hlo_text.Instruction]:
  """The operations in a fusion, including those of inner fusions."""
  if line.opcode != "fusion":
    return []
  found = []
  for name in hlo_text.called(line):
    for inner in inside.get(name, []):
      found += [inner, *_body(inner, inside)]
  return found


def _kind(line: hlo_text.Instruction, body: list[hlo_text.Instruction]) -> str:
  opcodes = {x.opcode for x in body} or {line.opcode.removesuffix("-start")}
  target = hlo_flops.target(line)
  if "convolution" in opcodes or "conv" in target:
    return "convolution"
  if "dot" in opcodes or "gemm" in target or "matmul" in target:
    return "dot"
  if opcodes & set(hlo_collectives.COLLECTIVES):
    return "collective"
  if any(name.startswith("reduce") for name in opcodes):
    return "reduction"
  if opcodes <= _MOVES:
    return "copy"
  others = _OTHERS | set(hlo_text.CONTAINERS)
  return "other" if opcodes & others else "elementwise"


def _infer(
  lines: Sequence[hlo_text.Instruction],
  named: dict[str, Place],
  kinds: dict[str, str],
) -> dict[str, Place]:
  """Infers the places of unnamed operations from their neighbours.

  A copy belongs to its reader; any other operation belongs to the place of its
  operands. Constants and parameters are ignored.
  """
  places = dict(named)
  operands, users = _neighbours(lines)
  waiting = [x.name for x in lines if x.name not in places]
  look = lambda names: _most(places.get(name) for name in names)
  for is_last in (False, True):
    progress = True
    while progress and waiting:
      progress = False
      for name in list(waiting):
        before, after = operands.get(name, []), users.get(name, [])
        near = after if kinds[name] == "copy" else before
        place = look(near) or (look([*before, *after]) if is_last else None)
        if place:
          places[name] = place
          waiting.remove(name)
          progress = True
  return places


def _neighbours(
  lines: Sequence[hlo_text.Instruction],
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
  """By name, the operands of an operation and its users."""
  silent = {x.name for x in lines if x.opcode in ("constant", "parameter")}
  operands: dict[str, list[str]] = {}
  users: dict[str, list[str]] = {}
  for line in lines:
    found = [x for x in hlo_text.operands(line) if x not in silent]
    operands[line.name] = found
    for name in found:
      users.setdefault(name, []).append(line.name)
  return operands, users
