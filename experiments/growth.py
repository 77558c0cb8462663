"""What a training step costs as batch, images, devices and data grow.

  python experiments/growth.py --scale=full
  python experiments/growth.py --axes devices --devices 1 2 4 8
  python experiments/growth.py --flag=--precision=bfloat16 --batch 512 1024 2048

Each cell is one run of benchmark.py with `--augment`: seconds of a step (the
median) and the memory that the step needs beside its arguments on one device,
against the global batch, the size of views 1 and 2, and the number of devices
that share a batch; and the seconds of a whole epoch against the number of
images. On a CPU devices are simulated: they share the machine's cores, so that
their figure shows the price of dividing the work, not its gain.

Cells are in `--out`/growth.json as soon as they are measured, and a second
start measures the rest; beside it lie figure.png and figure.pdf. `smoke` shows
that it runs, with a narrow network.
"""

import argparse
from collections.abc import Mapping, Sequence
import json
import math
import os
import pathlib
import sys
from typing import Any

import figures
import programs

from essl_jax import arguments as arguments_lib
from essl_jax import cpu
from essl_jax import workdir as workdir_lib
from essl_jax.errors import UsageError

FOLDER = pathlib.Path(__file__).parent
AXES = {
  "batch": "global batch",
  "size": "pixels a side of views 1 and 2",
  "devices": "devices",
  "examples": "training images",
}
# By scale: options of all cells, and the values along each axis.
SCALES: dict[str, tuple[dict[str, int], dict[str, Sequence[int]]]] = {
  "smoke": (
    {"batch": 8, "size": 16, "width": 8, "steps": 1},
    {
      "batch": (8, 16),
      "size": (8, 16),
      "devices": (1, 2),
      "examples": (16, 32),
    },
  ),
  "full": (
    {"batch": 64, "size": 32, "width": 64, "steps": 3},
    {
      "batch": (32, 64, 128, 256),
      "size": (16, 32, 48, 64),
      "devices": (1, 2, 4, 8),
      "examples": (256, 512, 1024, 2048),
    },
  ),
}
POINTS = {"textcoords": "offset points"}
_PROBE = (
  "import jax, json; x = jax.devices(); print(json.dumps({'count': len(x),"
  " 'kind': x[0].device_kind, 'platform': x[0].platform}))"
)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line; `values` are those along each chosen axis.

  Raises:
    UsageError: an unknown option or an impossible value.
  """
  parser = arguments_lib.Parser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--scale", choices=SCALES, default="smoke")
  add("--axes", nargs="+", choices=AXES, default=list(AXES))
  for axis, title in AXES.items():
    add(f"--{axis}", type=int, nargs="+", help=f"values of: {title}")
  add(
    "--flag",
    action="append",
    default=[],
    help="handed to benchmark.py, such as --flag=--precision=bfloat16",
  )
  add("--out", type=pathlib.Path, help="default: results/growth/<scale>")
  options = parser.parse_args(words)
  chosen = SCALES[options.scale][1]
  options.values = {
    axis: sorted(getattr(options, axis) or chosen[axis])
    for axis in options.axes
  }
  for axis, values in options.values.items():
    if values[0] < 1:
      raise UsageError(f"--{axis} must be at least 1; got {values[0]}")
  default = FOLDER / "results" / "growth" / options.scale
  options.out = options.out or default
  return options


def steps_per_epoch(options: argparse.Namespace, examples: int) -> int:
  """Whole batches in so many images; at least one."""
  return max(1, examples // SCALES[options.scale][0]["batch"])


def command(options: argparse.Namespace, axis: str, value: int) -> list[str]:
  """The words of benchmark.py for one cell."""
  fields = SCALES[options.scale][0] | {"devices": 1, axis: value}
  if axis == "examples":
    fields["steps"] = steps_per_epoch(options, value)
  flags = [f"--{name}={number}" for name, number in fields.items()]
  return ["experiments/benchmark.py", "--augment", *flags, *options.flag]


def variables(platform: str, axis: str, value: int) -> dict[str, str]:
  """The environment of a cell: as many devices as it wants, on a CPU."""
  found = dict(os.environ)
  if platform == "cpu" and axis == "devices":
    flag = f"--xla_force_host_platform_device_count={value}"
    found["XLA_FLAGS"] = f"{found.get('XLA_FLAGS', '')} {flag}".strip()
    found["NPROC"] = "32"  # with fewer threads collectives can dead-lock
  return found


def measure(
  options: argparse.Namespace, machine: Mapping[str, Any], axis: str, value: int
) -> dict[str, Any]:
  """Runs one cell.

  Args:
    options: from `parse`.
    machine: its `platform`.
    axis: what grows.
    value: how far it has grown.

  Returns:
    The cell's record.

  Raises:
    UsageError: benchmark.py failed.
  """
  words = command(options, axis, value)
  line = programs.last_line(
    [sys.executable, str(FOLDER.parent / words[0]), *words[1:]],
    variables(machine["platform"], axis, value),
  )
  cell = {
    "axis": axis,
    "value": value,
    "step_seconds": line["median_step_seconds"],
    "temporary_bytes": line["temporary_bytes"],
    "command": " ".join(["python", *words]),
    "run": line,
  }
  if axis == "examples":
    steps = steps_per_epoch(options, value)
    cell["epoch_seconds"] = steps * line["mean_step_seconds"]
  return cell


def exponent(values: Sequence[float], costs: Sequence[float]) -> float | None:
  """The power of the values that costs grow with, by least squares.

  Args:
    values: at least two different ones.
    costs: positive.

  Returns:
    1 where the cost is in proportion, 0 where it stays; None without two.
  """
  pairs = [
    (math.log(x), math.log(y))
    for x, y in zip(values, costs, strict=True)
    if y > 0
  ]
  if len({x for x, _ in pairs}) < 2:
    return None
  centre = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
  above = sum((x - centre[0]) * (y - centre[1]) for x, y in pairs)
  return above / sum((x - centre[0]) ** 2 for x, _ in pairs)


def draw(figure: Any, cells: Sequence[Mapping[str, Any]]) -> None:
  """Time above memory, one column for each axis that was measured."""
  measured = [x for x in AXES if any(cell["axis"] == x for cell in cells)]
  grid = figure.subplots(2, len(measured), squeeze=False)
  for column, axis in enumerate(measured):
    found = sorted(
      (x for x in cells if x["axis"] == axis), key=lambda x: x["value"]
    )
    values = [x["value"] for x in found]
    is_epoch = axis == "examples"
    seconds = [
      x["epoch_seconds" if is_epoch else "step_seconds"] for x in found
    ]
    memory = [x["temporary_bytes"] / 2**20 for x in found]
    title = "seconds of an epoch" if is_epoch else "seconds of a step"
    rows = ((title, seconds), ("MiB of temporaries a device", memory))
    for row, (title, costs) in enumerate(rows):
      axes = grid[row][column]
      axes.loglog(values, costs, f"C{row}o-")
      power = exponent(values, costs)
      axes.set_title("" if power is None else f"grows with power {power:.2f}")
      axes.set_xticks(values, map(str, values), rotation=45)
      for x, cost in zip(values, costs, strict=True):
        axes.annotate(f"{cost:.3g}", (x, cost), (-3, 6), ha="right", **POINTS)
      axes.margins(0.2)
      axes.minorticks_off()
      axes.set_xlabel(AXES[axis])
      axes.set_ylabel(title)
      axes.grid(alpha=0.4)


def main(words: Sequence[str] | None = None) -> int:
  """Measures what is missing, writes, prints; returns the exit code."""
  try:
    options = parse(words)
    cpu.choose_kernels()  # the cells inherit it, simulated devices or not
    return _run(options)
  except UsageError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _run(options: argparse.Namespace) -> int:
  machine = programs.last_line([sys.executable, "-c", _PROBE])
  limit = math.inf if machine["platform"] == "cpu" else machine["count"]
  circumstances = {
    "scale": options.scale,
    "flags": options.flag,
    "device": machine["kind"],
  }
  record: dict[str, Any] = {
    **circumstances,
    "host": programs.host(),
    "cells": [],
  }
  path = options.out / "growth.json"
  if path.exists():
    found = json.loads(path.read_text())
    if any(found.get(key) != value for key, value in circumstances.items()):
      raise UsageError(
        f"{path} is of another scale, device or other flags: give another --out"
      )
    record = found
  known = {(cell["axis"], cell["value"]) for cell in record["cells"]}
  for axis, values in options.values.items():
    for value in values:
      if axis == "devices" and value > limit:
        print(f"left out {value} devices: there are {limit}", file=sys.stderr)
        continue
      if (axis, value) in known:
        continue
      cell = measure(options, machine, axis, value)
      record["cells"].append(cell)
      options.out.mkdir(parents=True, exist_ok=True)
      workdir_lib.replace_text(path, json.dumps(record, indent=1) + "\n")
      seconds = f"{cell['step_seconds']:.4g} s a step"
      if "epoch_seconds" in cell:
        seconds += f", {cell['epoch_seconds']:.4g} s an epoch"
      memory = f"{cell['temporary_bytes'] / 2**20:.1f} MiB"
      print(f"{AXES[axis]} {value}: {seconds}, {memory}", flush=True)
  figures.write(options.out, (15, 7), lambda x: draw(x, record["cells"]))
  return 0


if __name__ == "__main__":
  sys.exit(main())
