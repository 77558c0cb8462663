"""The evaluations whose figures are in the runs."""

from collections.abc import Callable, Sequence
from typing import Any

from essl_jax.config.parts import EVALUATION
from essl_jax.errors import UsageError, told
from essl_jax.evaluation.evaluation import Evaluation
from essl_jax.report.runs import Run
from essl_jax.report.tables import words

Known = dict[str, type[Evaluation]]
"""Evaluations by the key of their figures."""


def find(runs: Sequence[Run]) -> tuple[Known, list[str]]:
  """Finds the known evaluations and those of the runs' own modules.

  Args:
    runs: runs whose configs name evaluations.

  Returns:
    The evaluations, and a line for each that cannot be imported: its figures
    are shown, its pictures are missing.
  """
  known: dict[str, Any] = {
    name: EVALUATION.find(name) for name in EVALUATION.names()
  }
  missing = []
  for run in runs:
    asked = run.config.get("evaluations")
    for name in asked if isinstance(asked, list) else ():
      if not isinstance(name, str) or name in known:
        continue
      try:
        known[name] = EVALUATION.find(name)
      except UsageError as error:
        missing.append(f"{run.name}: no pictures of {name}: {error}")
  return {x.name: x for x in known.values()}, missing


def ask(
  notes: list[str], what: str, make: Callable[..., Any], instead: Any
) -> Any:
  """Makes a part of the page; user code or odd figures may make this fail.

  Args:
    notes: gets a line if it fails.
    what: name of the part.
    make: makes the part.
    instead: replaces the part if it fails.

  Returns:
    The part.
  """
  try:
    with told(what):
      return make()
  except UsageError as error:
    notes.append(f"left out: {error}")
    return instead


def heading(known: Known, measure: str) -> str:
  """The heading of figures under a key of `results.json`."""
  own = known[measure].heading if measure in known else ""
  return str(own or words(measure).capitalize())
