"""Memory and time of a training step against batch size; prints a table.

  python experiments/memory.py
  python experiments/memory.py --batches 128 256 512 --precision=bfloat16

The full-width E-SimCLR step of the CIFAR-10 recipe, augmentation included, as
it is, in micro-batches and with rematerialised blocks. Memory is what XLA's own
analysis of the compiled step counts beside parameters and batch; nothing is run
for it. Batches up to `--timed` are also run: all settings in turn, `--steps`
times, of which the fastest is kept. On CPUs micro-batches are not: XLA runs
their loops tens of times slower there, which says nothing of accelerators.

Every finished cell is in `--out` at once; a second start measures the rest.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import jax
import step_cases

from essl_jax import environment

OUT = pathlib.Path(__file__).parent / "results" / "memory_cpu.json"
SETTINGS = {
  "as it is": {},
  "micro_batches=2": {"micro_batches": 2},
  "micro_batches=4": {"micro_batches": 4},
  "micro_batches=8": {"micro_batches": 8},
  "rematerialize": {"rematerialize": True},
  "rematerialize, micro_batches=4": {"rematerialize": True, "micro_batches": 4},
}


class Step:
  """A compiled step, and what feeds it."""

  def __init__(self, arguments: argparse.Namespace) -> None:
    experiment, step, self._batches = step_cases.build(arguments)
    self._state = experiment.create_state()
    self._batch = next(self._batches)
    self._step = step.lower(self._state, *self._batch).compile()
    self.temporary_bytes = self._step.memory_analysis().temp_size_in_bytes

  def run(self) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    self._state, metrics = self._step(self._state, *self._batch)
    jax.block_until_ready((self._state, metrics))
    return time.perf_counter() - start


def measure(arguments: argparse.Namespace, batch: int) -> list[dict[str, Any]]:
  """All settings of one batch size."""
  steps = {}
  for name, fields in SETTINGS.items():
    plain = {"micro_batches": 1, "rematerialize": False}
    chosen = vars(arguments) | {"batch": batch} | plain | fields
    steps[name] = Step(argparse.Namespace(**chosen))
  seconds: dict[str, list[float]] = {name: [] for name in steps}
  if batch <= arguments.timed:
    # In turn, so that what else the machine does meets all of them.
    for _ in range(arguments.steps + 1):
      for name, step in steps.items():
        if not ("micro" in name and jax.default_backend() == "cpu"):
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
  """Gibibytes, and time as a multiple of the plain step's, as Markdown."""
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


def main() -> None:
  """Measures what is missing, writes, prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--method", default="simclr")
  parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
  parser.add_argument("--timed", type=int, default=64, help="largest batch run")
  parser.add_argument("--steps", type=int, default=2)
  parser.add_argument("--width", type=int, default=64)
  parser.add_argument("--precision", default="float32")
  parser.add_argument("--out", type=pathlib.Path, default=OUT)
  arguments = parser.parse_args()
  asked = step_cases.defaults(**vars(arguments) | {"augment": True})
  step_cases.start(asked)
  circumstances = {
    key: getattr(arguments, key) for key in ("method", "width", "precision")
  }
  record: dict[str, Any] = {"cells": []}
  if arguments.out.exists():
    found = json.loads(arguments.out.read_text())
    if circumstances.items() <= found.items():
      record = found
  record |= circumstances | {"environment": environment.describe()}
  for batch in arguments.batches:
    if all(cell["batch"] != batch for cell in record["cells"]):
      record["cells"] += measure(asked, batch)
      arguments.out.parent.mkdir(parents=True, exist_ok=True)
      arguments.out.write_text(json.dumps(record, indent=1) + "\n")
  print(table(record["cells"]))


if __name__ == "__main__":
  main()
