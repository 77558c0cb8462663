r"""Measures how the cost of a training step grows with its size.

  python experiments/profiling/growth.py --scale=full --out=FOLDER
  python experiments/profiling/growth.py --axes devices --devices 1 2 4 8
  python experiments/profiling/growth.py --flag=--precision=bfloat16 \
    --batch 512 1024 2048

Each cell is one run of benchmark.py with `--augment`. It measures the seconds
of a step (the median) and the memory that the step needs besides its arguments
on one device, against the global batch, the size of views 1 and 2, and the
number of devices that share a batch; and the seconds of a whole epoch against
the number of images. On a CPU, devices are simulated: they share the machine's
cores, so the figure shows the cost of dividing the work, not its gain. An epoch
is the sum of its steps, each timed with the gathering of its batch, so its
power is near 1 unless a step's time depends on the number of images in memory.

Cells are written to `--out`/growth.json as soon as they are measured, and a
second start measures the rest, at the same commit and on the same machine. The
same folder gets figure.png and figure.pdf. `smoke`, with a narrow network, only
shows that the program runs.
"""

import essl_jax.start  # noqa: F401

# isort: split
import argparse
from collections.abc import Mapping, Sequence
import json
import math
import os
import pathlib
import sys
from typing import Any

import benchmark
import growth_figure
import programs
import records
import step_cases

from essl_jax import arguments as arguments_lib
from essl_jax.devices import cpu
from essl_jax.errors import UsageError, told
from essl_jax.evaluation import drawing
from essl_jax.storage import places

ROOT = pathlib.Path(__file__).parents[2]
AXES = growth_figure.AXES
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
_PROBE = """
import json, jax
from essl_jax.storage import environment
found = environment.describe()
print(json.dumps({
  "count": found["device_count"],
  "kind": found["device_kind"],
  "platform": jax.default_backend(),
  "git_commit": found["git_commit"],
}))
"""


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses the command line; `values` has the values along each axis.

  Raises:
    UsageError: an unknown option or a value that is not allowed.
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
    help="option for benchmark.py, such as --flag=--precision=bfloat16",
  )
  add("--out", type=pathlib.Path, help="default: results/growth/<scale>")
  options = parser.parse_args(words)
  chosen = SCALES[options.scale][1]
  options.values = {
    axis: sorted(set(getattr(options, axis) or chosen[axis]))
    for axis in options.axes
  }
  for axis, values in options.values.items():
    if values[0] < 1:
      raise UsageError(f"--{axis} must be at least 1; got {values[0]}")
  default = ROOT / "experiments/results/growth" / options.scale
  options.out = options.out or default
  _check_flags(options)
  return options


def _check_flags(options: argparse.Namespace) -> None:
  """Raises UsageError for unknown flags and flags that cells set themselves."""
  for axis, values in options.values.items():
    for value in values:
      found, _ = benchmark.parse(command(options, axis, value)[1:])
      if found.peer:
        raise UsageError("--flag=--peer: peers are compared by benchmark.py")
      ours = _fields(options, axis, value)
      for name in (*AXES, "steps"):
        if name in ours and getattr(found, name) != ours[name]:
          axes = ", ".join(f"--{axis}" for axis in AXES)
          raise UsageError(
            f"--flag sets --{name}, which each cell sets itself: leave it out,"
            f" and give values along an axis with {axes}"
          )
      try:
        step_cases.check(found)
        step_cases.make_config(found)
        if found.batch % found.devices:
          raise UsageError(f"a batch of {found.batch} cannot be divided evenly")
      except UsageError as error:
        raise UsageError(f"--{axis} {value}: {error}") from error


def _fields(
  options: argparse.Namespace, axis: str, value: int
) -> dict[str, int]:
  """The settings of a cell."""
  fields = SCALES[options.scale][0] | {"devices": 1, axis: value}
  if axis == "examples":
    fields["steps"] = steps_per_epoch(options, value)
  return fields


def steps_per_epoch(options: argparse.Namespace, examples: int) -> int:
  """Number of whole batches in the images; at least one."""
  return max(1, examples // SCALES[options.scale][0]["batch"])


def command(options: argparse.Namespace, axis: str, value: int) -> list[str]:
  """The command line of benchmark.py for one cell."""
  fields = _fields(options, axis, value)
  flags = [f"--{name}={number}" for name, number in fields.items()]
  script = "experiments/profiling/benchmark.py"
  return [script, "--augment", *flags, *options.flag]


def variables(platform: str, axis: str, value: int) -> dict[str, str]:
  """The environment of a cell, with simulated devices on a CPU."""
  found = dict(os.environ)
  if platform == "cpu" and axis == "devices":
    flag = f"--xla_force_host_platform_device_count={value}"
    found["XLA_FLAGS"] = f"{found.get('XLA_FLAGS', '')} {flag}".strip()
    found["NPROC"] = "32"  # with fewer threads, collectives can deadlock
  return found


def measure(
  options: argparse.Namespace, machine: Mapping[str, Any], axis: str, value: int
) -> dict[str, Any]:
  """Runs one cell.

  Args:
    options: from `parse`.
    machine: the machine's `platform`.
    axis: the axis.
    value: the value along the axis.

  Returns:
    The cell's record.

  Raises:
    UsageError: benchmark.py failed.
  """
  words = command(options, axis, value)
  line = programs.last_line(
    [sys.executable, str(ROOT / words[0]), *words[1:]],
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
    # The sum of what was measured: as many steps as an epoch has.
    steps = steps_per_epoch(options, value)
    cell["epoch_seconds"] = steps * line["mean_step_seconds"]
  return cell


@arguments_lib.tells_wrong_input
def main(words: Sequence[str] | None = None) -> int:
  """Measures missing cells, writes, prints; returns the exit code."""
  options = parse(words)
  cpu.choose_kernels()  # cells inherit it, with or without simulated devices
  return _run(options)


def _load(
  path: pathlib.Path, options: argparse.Namespace, machine: Mapping[str, Any]
) -> dict[str, Any]:
  """The record of cells measured under the same conditions; may be empty."""
  host = programs.host()  # each cell records its own load average
  circumstances = {
    "scale": options.scale,
    "flags": options.flag,
    "device": machine["kind"],
    "git_commit": machine["git_commit"],
    "cpu": host["cpu"],
    "cores": host["cores"],
  }
  return records.resume(path, circumstances, ("axis", "value", "step_seconds"))


def _run(options: argparse.Namespace) -> int:
  machine = programs.last_line([sys.executable, "-c", _PROBE])
  limit = math.inf if machine["platform"] == "cpu" else machine["count"]
  path = options.out / "growth.json"
  records.make_folder(options.out)
  record = _load(path, options, machine)
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
      places.replace_text(path, json.dumps(record, indent=1) + "\n")
      seconds = f"{cell['step_seconds']:.4g} s a step"
      if "epoch_seconds" in cell:
        seconds += f", {cell['epoch_seconds']:.4g} s an epoch"
      memory = f"{cell['temporary_bytes'] / 2**20:.1f} MiB"
      print(f"{AXES[axis]} {value}: {seconds}, {memory}", flush=True)
  with told(f"{path} cannot be drawn: remove it, or give another --out"):
    drawing.write_files(
      options.out, (15, 7), lambda x: growth_figure.draw(x, record["cells"])
    )
  return 0


if __name__ == "__main__":
  sys.exit(main())
