r"""Times one E-SSL training step of a recipe; prints one JSON line.

  python experiments/profiling/benchmark.py --method=simsiam --batch=64 \
    --steps=5
  python experiments/profiling/benchmark.py --batch=512 --steps=50 \
    --precision=bfloat16
  python experiments/profiling/benchmark.py --batch=512 --steps=50 \
    --images=cifar10.npz
  python experiments/profiling/benchmark.py --config=configs/cifar_mocov3.py:vit
  python experiments/profiling/benchmark.py --peer=torch_essl.py \
    --peer-python=PYTHON --check=experiments/results/step_benchmark_cpu.json

The step is that of `--method` in CIFAR-10's recipe with a ResNet-18, or with
`--config` that of a recipe, in which only batch and precision are replaced.

Without `--images`, the views are random arrays already on the device, so only
the step is measured. `--augment` adds the augmentation of three views inside
the step, and `--images` (an .npz with the arrays that `data.name` accepts) the
whole path: images in device memory, gathered, augmented, trained on.

With `--steps-per-dispatch=N`, N steps are one program, as in training on
accelerators; the time of a step is the program's time divided by N. Whole
programs are timed, so `--steps` is rounded up.

`temporary_bytes` is the memory that the step needs besides its arguments, by
XLA's own count; --micro_batches and --rematerialize trade time for it.

`first_step_seconds` is the time of the first step, including its batch and its
compilation; with `--cache`, a second start with the same arguments reads the
compiled step.

With `--peer`, a program that prints such a line for the same step in PyTorch,
both run in turn, `--rounds` times, and the record of all runs is printed. With
`--check` as well, the exit code is 1, with one line, if we have become slower
compared with the peer than in the given record.
"""

import essl_jax.start  # noqa: F401

# isort: split
import argparse
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json
import math
import pathlib
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import peer
import programs
import records
import step_cases

from essl_jax import arguments as arguments_lib
from essl_jax.devices import cpu
from essl_jax.errors import UsageError
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import views as views_lib


def augmentation_seconds(
  experiment: experiment_lib.Experiment, repetitions: int = 10
) -> tuple[float, float]:
  """Median time of making only the three views of a batch.

  Returns:
    The time without and with their parameters, measured in alternation.
  """
  n = experiment.config.batch_size
  images = jnp.asarray(experiment.source.train_images[:n])
  state = jax.device_get(experiment.create_state())
  state = dataclasses.replace(state, params={}, opt_state={}, target=None)
  asked = [
    [dataclasses.replace(x, parameters=told) for x in experiment.requests]
    for told in (False, True)
  ]
  makes = [jax.jit(views_lib.make_views(requests)) for requests in asked]
  seconds: tuple[list[float], list[float]] = ([], [])
  for _ in range(repetitions + 1):
    for make, found in zip(makes, seconds, strict=True):
      start = time.perf_counter()
      jax.block_until_ready(make(state, {"image": images}))
      found.append(time.perf_counter() - start)
  plain, told = (statistics.median(found[1:]) for found in seconds)
  return plain, told


def time_steps(
  program: Callable[..., Any],
  state: Any,
  batches: Iterator[Any],
  steps: int,
  steps_of_program: int,
) -> list[float]:
  """Seconds per step, for each of the programs that make up `steps`."""
  seconds = []
  for _ in range(math.ceil(steps / steps_of_program)):
    start = time.perf_counter()
    state, _ = program(state, *next(batches))
    jax.block_until_ready(state)
    seconds.append((time.perf_counter() - start) / steps_of_program)
  return seconds


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Compiles the step and times it.

  Args:
    arguments: options of `step_cases.add_arguments`, and `steps`.

  Returns:
    The record to print.

  Raises:
    UsageError: there is no such step.
  """
  host = programs.host()  # before this program adds to the load
  experiment, step, batches = step_cases.build(arguments)
  state = experiment.create_state()
  start = time.perf_counter()
  batch = next(batches)
  step = step.lower(state, *batch).compile()
  state, metrics = step(state, *batch)
  jax.block_until_ready(metrics)
  first_step_seconds = time.perf_counter() - start
  cpu.keep_memory()
  for _ in range(1 if jax.default_backend() == "cpu" else 10):
    state, metrics = step(state, *next(batches))
  jax.block_until_ready(state)

  each = arguments.steps_per_dispatch
  seconds = time_steps(step, state, batches, arguments.steps, each)
  mean, median = statistics.fmean(seconds), statistics.median(seconds)
  views, with_parameters = augmentation_seconds(experiment)
  rate = arguments.batch / mean
  return {
    **records.origin(host),
    "devices": experiment.mesh.size,
    "recipe": arguments.config,
    **step_cases.facts(experiment.config),
    "steps_per_dispatch": each,
    "steps": each * len(seconds),
    "temporary_bytes": step.memory_analysis().temp_size_in_bytes,
    "pipeline": bool(arguments.images),
    "augment": bool(arguments.augment or arguments.images),
    "first_step_seconds": first_step_seconds,
    "median_step_seconds": median,
    "mean_step_seconds": mean,
    "source_images_per_second": rate,
    "encoder_images_per_second": rate * experiment.encodings_per_image,
    "augmentation_seconds": views,
    "augmentation_share_of_step": views / median,
    "augmentation_with_parameters_seconds": with_parameters,
    "augmentation_with_parameters_share_of_step": with_parameters / median,
  }


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Parses the command line; also returns the words that are not about peers.

  Raises:
    UsageError: an unknown option or a value that is not allowed.
  """
  peers = arguments_lib.Parser(add_help=False, allow_abbrev=False)
  add = peers.add_argument
  add("--peer", type=pathlib.Path, help="a PyTorch program of the same step")
  add("--peer-python", default=sys.executable, help="a Python with PyTorch")
  add("--peer-arguments", default="", help='peer options such as "--compile"')
  add("--rounds", type=int, default=3, help="rounds of both programs in turn")
  add("--check", type=pathlib.Path, help="a record to compare with")
  add("--tolerance", type=float, default=0.1, help="of --check, as a fraction")
  parser = arguments_lib.Parser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    parents=[peers],
  )
  step_cases.add_arguments(parser)
  parser.add_argument("--steps", type=int, default=5)
  arguments = parser.parse_args(words)
  if arguments.check and not arguments.peer:
    raise UsageError("--check compares with a peer: give --peer=PROGRAM")
  arguments_lib.check_least(arguments, 1, "steps", "rounds")
  arguments_lib.check_least(arguments, 0, "tolerance")
  return arguments, peers.parse_known_args(words)[1]


@arguments_lib.tells_wrong_input
def main(words: Sequence[str] | None = None) -> int:
  """Times the step, or both programs; returns the exit code."""
  words = sys.argv[1:] if words is None else words
  arguments, own = parse(words)
  if arguments.peer is None:
    step_cases.start(arguments)
    print(json.dumps(measure(arguments)))
    return 0
  committed = peer.load(arguments.check) if arguments.check else None
  record = peer.alternate(arguments, own)
  print(json.dumps(record, indent=1), flush=True)
  worse = committed and peer.compare(record, committed, arguments.tolerance)
  if worse:
    print(f"FAIL {worse}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
