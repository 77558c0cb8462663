"""Finds when a run reached a kNN accuracy; prints one JSON line.

  python -m essl_jax.main --config=configs/cifar_fast.py --workdir=runs/fast
  python experiments/profiling/time_to_accuracy.py runs/fast --knn=90

The time is measured from the first line of the run's metrics, the untrained
encoder's accuracy, to the first line with at least this kNN accuracy. It
includes compilation, training, monitoring and checkpoints, and the pauses of a
resumed run. The monitor runs every `knn.every_epochs` epochs.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import sys
from typing import Any

import records

from essl_jax import arguments as arguments_lib
from essl_jax.errors import UsageError

_KNN = "knn_top1"


def find(workdir: pathlib.Path, accuracy: float) -> dict[str, Any]:
  """Finds when a run reached an accuracy.

  Args:
    workdir: workdir of the run.
    accuracy: kNN top-1 in percent.

  Returns:
    `seconds`, `step` and `knn_top1` of the first line that reaches it.

  Raises:
    UsageError: there are no such metrics, or none reaches it.
  """
  path = workdir / "metrics-*.jsonl"
  try:
    lines = records.read_metrics(workdir)
    looks = [line for line in lines if line.get(_KNN) is not None]
    start = lines[0]["wall_time"] if lines else 0.0
    for line in looks:
      if line[_KNN] >= accuracy:
        found = {"seconds": line["wall_time"] - start, "step": line["step"]}
        return found | {_KNN: line[_KNN]}
  except OSError as error:
    raise UsageError(
      f"{path} cannot be read ({error.strerror}): give the workdir of a run"
    ) from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UsageError(f"{path} holds no metrics of a run") from error
  if not looks:
    raise UsageError(
      f"{path} holds no kNN accuracy: train with --config.knn.every_epochs"
      " above 0"
    )
  best = max(line[_KNN] for line in looks)
  raise UsageError(
    f"{workdir} has not reached a kNN accuracy of {accuracy:g}%: its best is"
    f" {best:.2f}%"
  )


@arguments_lib.tells_wrong_input
def main(words: Sequence[str]) -> int:
  """Finds and prints the time; returns the exit code."""
  parser = arguments_lib.Parser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("workdir", type=pathlib.Path)
  parser.add_argument("--knn", type=float, default=90.0, help="percent")
  arguments = parser.parse_args(words)
  if not 0 <= arguments.knn <= 100:
    raise UsageError(f"--knn must be 0 to 100; got {arguments.knn:g}")
  print(json.dumps(find(arguments.workdir, arguments.knn)))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
