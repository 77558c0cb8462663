r"""Times the program from its start to its first step; prints one JSON line.

  python experiments/profiling/start_benchmark.py
  python experiments/profiling/start_benchmark.py \
    --config=configs/cifar_fast.py:small --flag=--config.data.dir=DIR

The first start fills a new compilation cache and is reported separately from
the following `--rounds`, which read it. Each start is a separate process, which
is killed after its first step; its output is deleted. Everything counts:
Python's imports, the data, the untrained encoder's kNN accuracy, compilation
and the step itself.
"""

import argparse
from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import programs
import records

from essl_jax import arguments as arguments_lib
from essl_jax.errors import UsageError

_PAUSE = 0.05  # seconds between two looks at the metrics


def first_step(
  command: Sequence[str], workdir: pathlib.Path, variables: Mapping[str, str]
) -> float:
  """Starts a program and kills it after its first step.

  Args:
    command: the command line.
    workdir: where the program writes the metrics of each step.
    variables: its environment variables.

  Returns:
    Seconds from its start to the time that it records for step 1.

  Raises:
    UsageError: it ended before that; quotes its last error.
  """
  start = time.time()
  with (
    tempfile.TemporaryFile() as errors,
    subprocess.Popen(
      command, env=variables, stdout=subprocess.DEVNULL, stderr=errors
    ) as process,
  ):
    try:
      while (seen := _time_of_step_1(workdir)) is None:
        if process.poll() is not None:
          errors.seek(0)
          said = errors.read().decode(errors="replace").strip().splitlines()
          last = (said or ["no output"])[-1].removeprefix("error: ")
          raise UsageError(
            "the program ended before its first step, with exit code"
            f" {process.returncode}: {last}"
          )
        time.sleep(_PAUSE)
    finally:
      process.kill()
  return seen - start


def _time_of_step_1(workdir: pathlib.Path) -> float | None:
  """Unix time at which a program wrote the metrics of its first step."""
  try:
    lines = records.read_metrics(workdir)
  except FileNotFoundError:
    return None
  return next((x["wall_time"] for x in lines if x and x["step"] == 1), None)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Starts the program once with an empty cache, then with a filled one.

  Args:
    arguments: from `parse`.

  Returns:
    The record to print.

  Raises:
    UsageError: the program ended before its first step.
  """
  host = programs.host()  # before this program adds to the load
  seconds = []
  with tempfile.TemporaryDirectory() as folder:
    cache = pathlib.Path(folder) / "cache"
    variables = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    for i in range(arguments.rounds + 1):
      workdir = pathlib.Path(folder) / str(i)
      command = [sys.executable, "-m", "essl_jax.main"]
      command += [f"--config={arguments.config}", f"--workdir={workdir}"]
      command += ["--config.log_every=1", *arguments.flag]
      seconds.append(first_step(command, workdir, variables))
  empty, *filled = seconds
  return {
    **records.origin(host),
    "config": arguments.config,
    "flags": arguments.flag,
    "empty_cache_seconds": empty,
    "each_seconds": filled,
    "median_seconds": statistics.median(filled),
  }


def parse(words: Sequence[str]) -> argparse.Namespace:
  """Parses the command line."""
  parser = arguments_lib.Parser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--config", default="configs/quickstart.py", help="recipe to start")
  add("--flag", action="append", default=[], help="flag for the program")
  add("--rounds", type=int, default=3, help="starts with a filled cache")
  arguments = parser.parse_args(words)
  arguments_lib.check_least(arguments, 1, "rounds")
  return arguments


@arguments_lib.tells_wrong_input
def main(words: Sequence[str]) -> int:
  """Measures and prints; returns the exit code."""
  found = measure(parse(words))
  print(json.dumps(found))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
