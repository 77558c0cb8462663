r"""Measures memory and time of a training step; prints a table.

  python experiments/profiling/memory.py --out=memory.json
  python experiments/profiling/memory.py --out=memory.json \
    --batches 128 256 512 --precision=bfloat16

The table compares batch sizes and settings of the full-width E-SimCLR step of
the CIFAR-10 recipe, including augmentation: unchanged, in micro-batches and
with rematerialised blocks. Memory is what XLA's own analysis of the compiled
step counts besides parameters and batch; nothing is run for it. Batches up to
`--timed` are also run: all settings in turn, `--steps` times, keeping the
fastest.

Each batch size is written to `--out` once it is measured. Starting the program
again at the same commit and on the same machine measures the rest.
"""

import essl_jax.start  # noqa: F401

# isort: split
import argparse
from collections.abc import Sequence
import json
import pathlib
import sys
import time
from typing import Any

import jax
import programs
import records
import step_cases

from essl_jax import arguments as arguments_lib
from essl_jax.config import parts
from essl_jax.devices import cpu
from essl_jax.errors import UsageError, told
from essl_jax.storage import places

OUT = pathlib.Path(__file__).parents[1] / "results" / "memory_cpu.json"
SETTINGS = {
  "as it is": {},
  "micro_batches=2": {"micro_batches": 2},
  "micro_batches=4": {"micro_batches": 4},
  "micro_batches=8": {"micro_batches": 8},
  "rematerialize": {"rematerialize": True},
  "rematerialize, micro_batches=4": {"rematerialize": True, "micro_batches": 4},
}


class Step:
  """A compiled step and its input."""

  def __init__(self, arguments: argparse.Namespace) -> None:
    experiment, step, self._batches = step_cases.build(arguments)
    self._state = experiment.create_state()
    self._batch = next(self._batches)
    self._step = step.lower(self._state, *self._batch).compile()
    self.temporary_bytes = self._step.memory_analysis().temp_size_in_bytes

  def run(self) -> float:
    """Runs one step; returns its seconds."""
    start = time.perf_counter()
    self._state, metrics = self._step(self._state, *self._batch)
    jax.block_until_ready((self._state, metrics))
    return time.perf_counter() - start


def measure(arguments: argparse.Namespace, batch: int) -> list[dict[str, Any]]:
  """Measures all settings of one batch size."""
  steps = {}
  for name, fields in SETTINGS.items():
    plain = {"micro_batches": 1, "rematerialize": False}
    chosen = vars(arguments) | {"batch": batch} | plain | fields
    steps[name] = Step(argparse.Namespace(**chosen))
  seconds: dict[str, list[float]] = {name: [] for name in steps}
  if batch <= arguments.timed:
    cpu.keep_memory()
    # In turn, so that other work on the machine affects all of them.
    for _ in range(arguments.steps + 1):
      for name, step in steps.items():
        seconds[name].append(step.run())
  return [
    {
      "batch": batch,
      "setting": name,
      "temporary_bytes": step.temporary_bytes,
      "step_seconds": min(seconds[name][1:], default=None),
    }
    for name, step in steps.items()
  ]


def table(cells: list[dict[str, Any]]) -> str:
  """A Markdown table of GiB, and time as a multiple of the plain step's."""
  batches = sorted({cell["batch"] for cell in cells})
  known = {(cell["batch"], cell["setting"]): cell for cell in cells}
  lines = [
    "| setting | " + " | ".join(f"batch {n}" for n in batches) + " |",
    "|---" * (len(batches) + 1) + "|",
  ]
  for setting in SETTINGS:
    texts = []
    for batch in batches:
      cell, plain = known[batch, setting], known[batch, "as it is"]
      text = f"{cell['temporary_bytes'] / 2**30:.2f} GiB"
      if cell["step_seconds"]:
        text += f", {cell['step_seconds'] / plain['step_seconds']:.2f} x"
      texts.append(text)
    lines.append(f"| {setting} | " + " | ".join(texts) + " |")
  return "\n".join(lines)


def parse(words: Sequence[str]) -> argparse.Namespace:
  """Parses the command line.

  Raises:
    UsageError: an unknown option or a value that is not allowed.
  """
  parser = arguments_lib.Parser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--method", choices=parts.METHOD.names(), default="simclr")
  add("--batches", type=int, nargs="+", default=[64, 256])
  add("--timed", type=int, default=64, help="largest batch run; 0 runs none")
  add("--steps", type=int, default=2, help="of each setting, in turn")
  add("--width", type=int, default=64)
  add("--precision", choices=("float32", "bfloat16"), default="float32")
  add("--out", type=pathlib.Path, default=OUT)
  arguments = parser.parse_args(words)
  for batch in arguments.batches:
    # 8 is the largest number of micro-batches in SETTINGS.
    if batch < 1 or batch % 8:
      raise UsageError(f"--batches must be multiples of 8; got {batch}")
  arguments_lib.check_least(arguments, 0, "timed")
  arguments_lib.check_least(arguments, 1, "steps", "width")
  return arguments


def _load(arguments: argparse.Namespace) -> dict[str, Any]:
  """The record of cells measured under the same conditions; may be empty."""
  origin = records.origin(programs.host())
  host = origin.pop("host")
  circumstances = {
    "method": arguments.method,
    "width": arguments.width,
    "precision": arguments.precision,
    **origin,
    "cpu": host["cpu"],
    "cores": host["cores"],
  }
  return records.resume(
    arguments.out, circumstances, ("batch", "setting", "temporary_bytes")
  )


@arguments_lib.tells_wrong_input
def main(words: Sequence[str]) -> int:
  """Measures missing batch sizes, writes, prints; returns the exit code."""
  arguments = parse(words)
  asked = step_cases.defaults(**vars(arguments) | {"augment": True})
  step_cases.start(asked)
  records.make_folder(arguments.out.parent)
  record = _load(arguments)
  for batch in arguments.batches:
    if all(cell["batch"] != batch for cell in record["cells"]):
      record["cells"] += measure(asked, batch)
      text = json.dumps(record, indent=1) + "\n"
      places.replace_text(arguments.out, text)
  with told(f"{arguments.out} lacks figures: remove it"):
    text = table(record["cells"])
  print(text)
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
