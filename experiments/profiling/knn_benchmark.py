r"""Times the kNN monitor's classification; prints one JSON line.

  python experiments/profiling/knn_benchmark.py
  python experiments/profiling/knn_benchmark.py \
    --step=experiments/results/step_benchmark_cpu.json

Random features of unit variance are classified as in the monitor
(`essl_jax.evaluation.knn`): one block of queries at a time, on one device. With
`--step`, a record of benchmark.py from the same kind of device, the time is
also given as a share of an epoch of training on as many images as the bank has.
The extraction of features is not included.
"""

import essl_jax.start  # noqa: F401

# isort: split
import argparse
from collections.abc import Sequence
import json
import math
import pathlib
import statistics
import sys
import time
from typing import Any

import jax
import programs
import records

from essl_jax import arguments as arguments_lib
from essl_jax.devices import cpu
from essl_jax.errors import UsageError
from essl_jax.evaluation import knn
from essl_jax.storage import environment, json_files

NUM_CLASSES, TEMPERATURE = 10, 0.1


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Times `arguments.rounds` classifications after one to compile.

  Args:
    arguments: from `parse`.

  Returns:
    The record to print.
  """
  host = programs.host()  # before this program adds to the load
  keys = jax.random.split(jax.random.key(0), 3)
  shape = (arguments.bank, arguments.features)
  bank = jax.random.normal(keys[0], shape)
  labels = jax.random.randint(keys[1], shape[:1], 0, NUM_CLASSES)
  shape = (arguments.queries, arguments.features)
  queries = jax.random.normal(keys[2], shape)

  def classify() -> jax.Array:
    return knn.predict(
      bank,
      labels,
      queries,
      num_classes=NUM_CLASSES,
      k=arguments.k,
      temperature=TEMPERATURE,
    )

  jax.block_until_ready(classify())
  cpu.keep_memory()
  seconds = []
  for _ in range(arguments.rounds):
    start = time.perf_counter()
    jax.block_until_ready(classify())
    seconds.append(time.perf_counter() - start)
  return {
    **records.origin(host),
    "bank": arguments.bank,
    "queries": arguments.queries,
    "features": arguments.features,
    "k": arguments.k,
    "each_seconds": seconds,
    "median_seconds": statistics.median(seconds),
  }


def load_step(path: pathlib.Path) -> tuple[float, str]:
  """Reads the speed of training from a record.

  Args:
    path: path of a line that benchmark.py printed, with or without a peer.

  Returns:
    Images per second, the median of our runs, and the kind of device.

  Raises:
    UsageError: the file is not such a record.
  """
  try:
    record = json_files.read_object(path)
    ours = [
      run
      for run in record.get("runs", [record])
      if run["program"] == "essl_jax"
    ]
    rate = float(
      statistics.median(run["source_images_per_second"] for run in ours)
    )
    if not 0 < rate < math.inf:
      raise ValueError(f"{rate} images per second")
    return rate, ours[0]["device"]
  except OSError as error:
    raise UsageError(f"{path} cannot be read: {error.strerror}") from error
  except (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
  ) as error:
    raise UsageError(f"{path} is not a record of benchmark.py") from error


def parse(words: Sequence[str]) -> argparse.Namespace:
  """Parses the command line."""
  parser = arguments_lib.Parser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--bank", type=int, default=50_000, help="images to compare with")
  add("--queries", type=int, default=10_000, help="images to classify")
  add("--features", type=int, default=512, help="numbers of each image")
  add("--k", type=int, default=200, help="neighbours that vote")
  add("--rounds", type=int, default=3)
  add("--step", type=pathlib.Path, help="a record of benchmark.py")
  arguments = parser.parse_args(words)
  arguments_lib.check_least(
    arguments, 1, "bank", "queries", "features", "k", "rounds"
  )
  if arguments.k > arguments.bank:
    raise UsageError(
      f"--k={arguments.k} must be at most --bank={arguments.bank}"
    )
  return arguments


@arguments_lib.tells_wrong_input
def main(words: Sequence[str]) -> int:
  """Measures and prints; returns the exit code."""
  arguments = parse(words)
  cpu.tune()
  rate = None
  if arguments.step:
    rate, device = load_step(arguments.step)
    kind = environment.describe()["device_kind"]
    if device != kind:
      raise UsageError(
        f"{arguments.step} is of {device!r}, but this is {kind!r}: give a"
        " record of this kind of device"
      )
  found = measure(arguments)
  if rate is not None:
    seconds = found["bank"] / rate
    share = found["median_seconds"] / seconds
    found |= {"epoch_seconds": seconds, "share_of_epoch": share}
  print(json.dumps(found))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
