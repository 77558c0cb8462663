r"""Shows where the time of one E-SSL training step goes; prints Markdown.

  python experiments/profiling/profile_step.py --method=simsiam --batch=64 \
    --augment
  python experiments/profiling/profile_step.py --batch=512 \
    --precision=bfloat16 --images=cifar10.npz --json=profile.json \
    --trace-dir=trace

The step is that of benchmark.py, with the same options. It runs `--steps` times
as training runs single steps (each is dispatched before waiting for the metrics
of the previous one), then as often under `jax.profiler`. Programs of many
steps, which accelerators run on images in their memory, are timed by
benchmark.py --steps-per-dispatch and not profiled. The compiled program's text
assigns the trace's operations to parts of the program (encoder by stage, heads,
losses, augmentation, optimizer) and to kinds. The total is compared with the
limits of the device, which are measured too. docs/performance.md explains the
rows.
"""

import essl_jax.start  # noqa: F401

# isort: split
import argparse
from collections.abc import Callable, Iterator, Sequence
import json
import os
import pathlib
import re
import shlex
import statistics
import sys
import tempfile
import time
from typing import Any

import device_peaks
import hlo_parts
import jax
import jaxpr_flops
import profile_report
import programs
import records
import step_cases
import trace_reader

from essl_jax import arguments as arguments_lib
from essl_jax.devices import cpu
from essl_jax.errors import UsageError
from essl_jax.storage import environment


def parse(words: Sequence[str]) -> argparse.Namespace:
  """Parses the command line.

  Raises:
    UsageError: an unknown option or a value that is not allowed.
  """
  parser = arguments_lib.Parser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  step_cases.add_arguments(parser)
  add = parser.add_argument
  add("--steps", type=int, default=5, help="steps to time, and to trace")
  add("--trace-dir", type=pathlib.Path, help="folder to keep the trace")
  add("--json", type=pathlib.Path, help="file for the record")
  arguments = parser.parse_args(words)
  arguments_lib.check_least(arguments, 1, "steps")
  if arguments.steps_per_dispatch != 1:
    raise UsageError(
      "only steps that are dispatched one by one can be profiled: omit"
      " --steps-per-dispatch"
    )
  _check_outputs(arguments)
  return arguments


def _check_outputs(arguments: argparse.Namespace) -> None:
  """Makes the output folders; raises UsageError if writing is impossible."""
  path, traces = arguments.json, arguments.trace_dir
  if traces:
    records.make_folder(traces)
  if path:
    records.make_folder(path.parent)
    records.check_file("json", path)
  if traces and not os.access(traces, os.W_OK):
    raise UsageError(f"--trace-dir={traces} is not writable")


def run_steps(
  step: Callable[..., Any], state: Any, batches: Iterator[Any], count: int
) -> tuple[Any, float, float]:
  """Runs steps as the training loop does.

  Args:
    step: the compiled step.
    state: the initial state.
    batches: its batches.
    count: number of steps.

  Returns:
    The state, seconds per step, and median seconds of getting a batch.
  """
  waits, before = [], None
  start = time.perf_counter()
  for _ in range(count):
    asked = time.perf_counter()
    batch = next(batches)
    waits.append(time.perf_counter() - asked)
    state, metrics = step(state, *batch)
    jax.block_until_ready(before)
    before = metrics
  jax.block_until_ready((state, before))
  seconds = (time.perf_counter() - start) / count
  return state, seconds, statistics.median(waits)


def trace_steps(
  step: Callable[..., Any],
  state: Any,
  batches: Iterator[Any],
  count: int,
  folder: pathlib.Path,
) -> list[trace_reader.Run]:
  """Traces steps on the first device; the trace stays in the folder."""
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # it slows the host down
  with jax.profiler.trace(str(folder), profiler_options=options):
    run_steps(step, state, batches, count)
  return trace_reader.runs(trace_reader.load(folder))


def peaks_of_device(
  precision: str, mesh: jax.sharding.Mesh
) -> dict[str, float]:
  """Measures the limits of one device.

  Simulated devices of a CPU share the machine: each has its share of it.

  Args:
    precision: the dtype of the matrices.
    mesh: the devices that run the step.

  Returns:
    `flops_per_second` and `bytes_per_second`.
  """
  is_cpu = mesh.devices.flat[0].platform == "cpu"
  sharing = mesh.size if is_cpu else 1
  return {
    "flops_per_second": device_peaks.flops_per_second(precision) / sharing,
    "bytes_per_second": device_peaks.bytes_per_second() / sharing,
  }


def profile(
  arguments: argparse.Namespace, folder: pathlib.Path
) -> dict[str, Any]:
  """Builds, times and traces the step.

  Args:
    arguments: from `parse`.
    folder: for the trace.

  Returns:
    The record: see `profile_report.summarise` and `roofline`.

  Raises:
    UsageError: there is no such step.
  """
  experiment, step, batches = step_cases.build(arguments)
  state = experiment.create_state()
  traced = step.trace(state, *next(batches))
  compiled = traced.lower().compile()
  cpu.keep_memory()
  warmups = 1 if jax.default_backend() == "cpu" else 10
  count = arguments.steps
  state, *_ = run_steps(compiled, state, batches, warmups)
  state, seconds, waited = run_steps(compiled, state, batches, count)
  runs = trace_steps(compiled, state, batches, count, folder)
  text = compiled.as_text()
  module = re.match(r"HloModule ([\w.-]+)", text)
  summary = profile_report.summarise(
    runs, hlo_parts.read(text), module[1] if module else "", count
  )
  costs = compiled.cost_analysis() or {}
  has_input = arguments.augment or arguments.images
  return {
    "steps": count,
    "devices": experiment.mesh.size,
    "step_seconds": seconds,
    "input_seconds": waited if has_input else None,
    "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    "roofline": profile_report.roofline(
      costs.get("flops", 0.0),
      jaxpr_flops.matrix_flops(traced.jaxpr),
      costs.get("bytes accessed", 0.0),
      peaks_of_device(arguments.precision, experiment.mesh),
      seconds,
    ),
    **summary,
  }


@arguments_lib.tells_wrong_input
def main(words: Sequence[str] | None = None) -> int:
  """Profiles, prints, writes; returns the exit code."""
  words = sys.argv[1:] if words is None else words
  arguments, host = parse(words), programs.host()
  step_cases.start(arguments)
  # Otherwise, a cached program may have the names of an older source.
  jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
  with tempfile.TemporaryDirectory() as temporary:
    folder = arguments.trace_dir or pathlib.Path(temporary)
    record = profile(arguments, folder)
  command = ["python", "experiments/profiling/profile_step.py", *words]
  chosen = {
    key: str(value) if isinstance(value, pathlib.Path) else value
    for key, value in vars(arguments).items()
  }
  record = {
    "command": shlex.join(command),
    "arguments": chosen,
    "environment": environment.describe(),
    "host": host,
    **record,
  }
  if arguments.json:
    arguments.json.write_text(json.dumps(record, indent=1) + "\n")
  print(profile_report.table(record))
  return 0


if __name__ == "__main__":
  sys.exit(main())
