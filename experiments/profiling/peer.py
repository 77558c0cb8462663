"""Runs a PyTorch program of the same step in turn with ours; compares them."""

import argparse
from collections.abc import Mapping, Sequence
import pathlib
import shlex
import statistics
import subprocess
import sys
from typing import Any

import programs
import step_cases

from essl_jax.errors import UsageError
from essl_jax.storage import json_files

OURS = pathlib.Path(__file__).with_name("benchmark.py")
# Fields that must agree, and fields that a peer must print.
_SAME = ("method", "batch", "pipeline")
_NEEDED = (*_SAME, "device", "median_step_seconds")
# Fields of our runs; those that earlier records lack are not compared.
_OURS = (
  *("width", "size", "precision", "micro_batches", "augment", "devices"),
  *("rotation_weight", "steps_per_dispatch", "recipe", "encoder"),
)


def alternate(
  arguments: argparse.Namespace, own: Sequence[str]
) -> dict[str, Any]:
  """Runs both programs in turn.

  Args:
    arguments: options of benchmark.py, with `peer`.
    own: the words of its command line that are not about peers.

  Returns:
    `torch_over_jax_step_time`, one ratio of median step times per round: the
    number of images that we train on while the peer trains on one. Their median
    is `images_per_second_ratio`. `commands` and `runs` are those of both
    programs, `peer_arguments` the peer's own options.

  Raises:
    UsageError: the peer cannot run, or cannot run this step.
  """
  _check(arguments)
  own_of_peer = _split(arguments.peer_arguments)
  step = step_cases.facts(step_cases.make_config(arguments))
  theirs = [
    *(arguments.peer_python, str(arguments.peer)),
    f"--method={step['method']}",
    f"--batch={arguments.batch}",
    f"--steps={arguments.steps}",
    f"--rotation-weight={step['rotation_weight']}",
    *([f"--images={arguments.images}"] if arguments.images else []),
    *own_of_peer,
  ]
  ours = [sys.executable, str(OURS), *own]
  runs, ratios = [], []
  for _ in range(arguments.rounds):
    pair = _named(programs.last_line(theirs)), programs.last_line(ours)
    check_same_device(*pair)
    check_same_step(*pair)
    runs += pair
    ratios.append(
      pair[0]["median_step_seconds"] / pair[1]["median_step_seconds"]
    )
  return {
    "commands": [
      shlex.join(["python", arguments.peer.name, *theirs[2:]]),
      shlex.join(["python", "experiments/profiling/benchmark.py", *own]),
    ],
    "peer_arguments": own_of_peer,
    "images_per_second_ratio": statistics.median(ratios),
    "torch_over_jax_step_time": ratios,
    "runs": runs,
  }


def _check(arguments: argparse.Namespace) -> None:
  """Raises UsageError for a step that the peer cannot run."""
  if not arguments.peer.is_file():
    raise UsageError(f"--peer={arguments.peer}: there is no such file")
  step_cases.check(arguments)
  wanted = {"width": 64, "size": 32, "micro_batches": 1, "rematerialize": False}
  for name, value in wanted.items():
    if getattr(arguments, name) != value:
      raise UsageError(f"the peer's step has {name} {value}: omit --{name}")
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


def _split(words: str) -> list[str]:
  try:
    return shlex.split(words)
  except ValueError as error:
    raise UsageError(
      f"--peer-arguments={words!r} is not valid shell syntax: {error}"
    ) from error


def _named(line: Mapping[str, Any]) -> dict[str, Any]:
  """A peer's line with its name; UsageError if it lacks something."""
  missing = [name for name in _NEEDED if name not in line]
  if missing:
    raise UsageError(
      f"the peer's line lacks {', '.join(missing)}: it must have"
      f" {', '.join(_NEEDED)}"
    )
  seconds = line["median_step_seconds"]
  if not (isinstance(seconds, (int, float)) and seconds > 0):
    raise UsageError(
      f"the peer's median_step_seconds is {seconds!r}: it must be above 0"
    )
  return {"program": "peer", **line}


def check_same_step(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
  """Raises UsageError if the peer reports a different step from ours."""
  for name in _SAME:
    if theirs[name] != ours[name]:
      raise UsageError(
        f"the peer ran {name} {theirs[name]}, but we ran {ours[name]}: it must"
        " obey its options"
      )


def check_same_device(
  theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
  """Raises UsageError for different devices or precisions."""
  if theirs["device"] != ours["device"]:
    raise UsageError(
      f"the peer ran on {theirs['device']}, but we ran on {ours['device']}:"
      " install both for the same device"
    )
  # The peer computes in bfloat16 except on CPUs.
  expected = "float32" if ours["device"] == "cpu" else "bfloat16"
  if ours["precision"] != expected:
    raise UsageError(
      f"the peer computes in {expected} on {ours['device']}: give"
      f" --precision={expected}"
    )


def load(path: pathlib.Path) -> dict[str, Any]:
  """Reads a record of `alternate`.

  Raises:
    UsageError: there is none, or the file is something else.
  """
  try:
    record = json_files.read_object(path)
    ratios = record["torch_over_jax_step_time"]
    if ratios and min(ratios) > 0 and set(_SAME) <= _ours(record).keys():
      return record
  except (OSError, ValueError, LookupError, TypeError, StopIteration):
    pass
  raise UsageError(
    f"--check={path} is not a record that benchmark.py --peer has printed"
  )


def _ours(record: Mapping[str, Any]) -> Mapping[str, Any]:
  # Ours is the second run of each round, whatever a peer calls itself.
  runs = reversed(record["runs"])
  return next(x for x in runs if x["program"] == "essl_jax")


def _check_same(
  name: str, now: Mapping[str, Any], committed: Mapping[str, Any]
) -> None:
  if name in committed and now[name] != committed[name]:
    raise UsageError(
      f"the record has {name} {committed[name]}, but this run has"
      f" {now[name]}: they cannot be compared"
    )


def compare(
  now: Mapping[str, Any], committed: Mapping[str, Any], tolerance: float
) -> str | None:
  """Says in one line how much worse we are than a record, if we are.

  Args:
    now: the new record.
    committed: the record to compare with.
    tolerance: fraction of the committed ratio that we may lose.

  Returns:
    The line; None if the ratio has dropped by no more than the tolerance.

  Raises:
    UsageError: the record is of another step or another kind of device.
  """
  ours, theirs = _ours(now), _ours(committed)
  for name in (*_SAME, "device", *_OURS):
    _check_same(name, ours, theirs)
  _check_same("peer_arguments", now, committed)
  ratio, before = (
    statistics.median(record["torch_over_jax_step_time"])
    for record in (now, committed)
  )
  if ratio >= (1 - tolerance) * before:
    return None
  return (
    f"{ratio:.3f} times the peer's images per second, but {before:.3f} in the"
    f" record: {100 * (1 - ratio / before):.0f}% less, more than the"
    f" {100 * tolerance:.0f}% allowed"
  )
