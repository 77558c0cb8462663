"""Runs a PyTorch program of the same step in turn with ours; compares."""

import argparse
from collections.abc import Mapping, Sequence
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
from typing import Any

import programs

from essl_jax.errors import UsageError

OURS = pathlib.Path(__file__).with_name("benchmark.py")
# What the peer is told, and what must be the same in a record.
_SAME = ("method", "batch", "device", "pipeline")
# Ours alone: earlier records lack some, which are then not compared.
_OURS = ("width", "size", "precision", "micro_batches", "augment", "devices")
_METHODS = ("simsiam", "simclr")


def alternate(
  arguments: argparse.Namespace, own: Sequence[str]
) -> dict[str, Any]:
  """Runs both programs in turn.

  Args:
    arguments: of benchmark.py, `peer` given.
    own: the words of its command line that are not about peers.

  Returns:
    `torch_over_jax_step_time`, one ratio a round, of median steps: how many
    images we train on in the time of one of the peer's. Their median is
    `images_per_second_ratio`; `commands` and `runs` are both programs'.

  Raises:
    UsageError: the peer cannot run, or not this step.
  """
  _check(arguments)
  theirs = [
    *(arguments.peer_python, str(arguments.peer)),
    f"--method={arguments.method}",
    f"--batch={arguments.batch}",
    f"--steps={arguments.steps}",
    f"--rotation-weight={arguments.rotation_weight}",
    *([f"--images={arguments.images}"] if arguments.images else []),
    *shlex.split(arguments.peer_arguments),
  ]
  ours = [sys.executable, str(OURS), *own]
  runs, ratios = [], []
  for _ in range(arguments.rounds):
    pair = programs.last_line(theirs), programs.last_line(ours)
    check_same_device(*pair)
    runs += pair
    ratios.append(
      pair[0]["median_step_seconds"] / pair[1]["median_step_seconds"]
    )
  return {
    "commands": [
      shlex.join(["python", arguments.peer.name, *theirs[2:]]),
      shlex.join(["python", "experiments/benchmark.py", *own]),
    ],
    "images_per_second_ratio": statistics.median(ratios),
    "torch_over_jax_step_time": ratios,
    "runs": runs,
  }


def _check(arguments: argparse.Namespace) -> None:
  """Refuses what the peer cannot run."""
  if not arguments.peer.is_file():
    raise UsageError(f"--peer={arguments.peer}: there is no such file")
  wanted = {"width": 64, "size": 32, "micro_batches": 1, "rematerialize": False}
  for name, value in wanted.items():
    if getattr(arguments, name) != value:
      raise UsageError(f"the peer's step has {name} {value}: leave --{name}")
  if arguments.method not in _METHODS:
    raise UsageError(
      f"the peer has no {arguments.method}: give --method="
      + " or ".join(_METHODS)
    )
  try:
    subprocess.run(
      [arguments.peer_python, "-c", "import torch"],
      check=True,
      capture_output=True,
    )
  except (OSError, subprocess.CalledProcessError) as error:
    raise UsageError(
      f"PyTorch cannot be imported by {arguments.peer_python}: give a Python"
      " that has it as --peer-python"
    ) from error


def check_same_device(
  theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
  """Refuses to compare a CPU with an accelerator, or two precisions."""
  if theirs["device"] != ours["device"]:
    raise UsageError(
      f"the peer ran on {theirs['device']} and we on {ours['device']}: install"
      " both for the same device"
    )
  # The peer computes in bfloat16 wherever it is not on a CPU.
  expected = "float32" if ours["device"] == "cpu" else "bfloat16"
  if ours["precision"] != expected:
    raise UsageError(
      f"the peer computes in {expected} on {ours['device']}: give"
      f" --precision={expected}"
    )


def load(path: pathlib.Path) -> dict[str, Any]:
  """Reads a record of `alternate`.

  Raises:
    UsageError: there is none, or it is of something else.
  """
  try:
    record = json.loads(path.read_text())
    if record["torch_over_jax_step_time"] and _ours(record):
      return record
  except (OSError, ValueError, TypeError, KeyError, StopIteration):
    pass
  raise UsageError(
    f"--check={path} is not a record that benchmark.py --peer has printed"
  )


def _ours(record: Mapping[str, Any]) -> Mapping[str, Any]:
  return next(x for x in record["runs"] if x["program"] == "essl_jax")


def compare(
  now: Mapping[str, Any], committed: Mapping[str, Any], tolerance: float
) -> str | None:
  """Says in one line how much worse we are than a record, or nothing.

  Args:
    now: what was measured.
    committed: what is compared with.
    tolerance: share of the committed ratio that we may lose.

  Returns:
    The line; None where the ratio is no more than that below.

  Raises:
    UsageError: the record is of another step or another kind of device.
  """
  ours, theirs = _ours(now), _ours(committed)
  for name in (*_SAME, *_OURS):
    if name in theirs and ours[name] != theirs[name]:
      raise UsageError(
        f"the record is of {name} {theirs[name]} and this run of"
        f" {ours[name]}: they cannot be compared"
      )
  ratio, before = (
    statistics.median(record["torch_over_jax_step_time"])
    for record in (now, committed)
  )
  if ratio >= (1 - tolerance) * before:
    return None
  return (
    f"{ratio:.3f} times the peer's images a second, and {before:.3f} in the"
    f" record: {100 * (1 - ratio / before):.0f}% less, more than the"
    f" {100 * tolerance:.0f}% allowed"
  )
