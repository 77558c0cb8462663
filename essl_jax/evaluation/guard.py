"""Calls evaluations, which may be user code, and checks their results."""

from collections.abc import Mapping
import contextlib
import json
import typing
from typing import Any

import jax

from essl_jax import config as config_lib
from essl_jax.errors import told
from essl_jax.evaluation.evaluation import Curve, Evaluation, Picture, Row
from essl_jax.storage.preemption import Stopped
from essl_jax.storage.workdir import to_json

# Not wrong input: diverged networks, SIGTERM, failing devices or processes.
_PASSING = (FloatingPointError, Stopped, jax.errors.JaxRuntimeError)
_MODES = typing.get_args(typing.get_type_hints(config_lib.Config)["mode"])


def told_by(
  evaluation: Evaluation, hook: str
) -> contextlib.AbstractContextManager[None]:
  """Turns exceptions in an evaluation into a UsageError that names it.

  Args:
    evaluation: the evaluation whose code runs within.
    hook: the name of the called method.

  Returns:
    The context; it does not change errors of training, devices and processes.
  """
  kind = type(evaluation)
  name = f"{kind.__module__}:{kind.__name__}"
  return told(f"config.evaluations={name}, {hook}", passing=_PASSING)


def check_settings(evaluation: Evaluation) -> None:
  """Raises UsageError for unknown modes and wrong numbers of epochs."""
  with told_by(evaluation, "modes"):
    modes = evaluation.modes
    if isinstance(modes, str) or not set(modes) <= set(_MODES):
      raise ValueError(
        f"must be a tuple of some of {', '.join(_MODES)}; got {modes!r}"
      )
  with told_by(evaluation, "every_epochs"):
    every = evaluation.look_every()
    if every is not None and not (isinstance(every, int) and every >= 0):
      raise ValueError(f"must be a whole number, 0 or more; got {every!r}")


def monitor(
  evaluation: Evaluation, bench: Any, state: Any
) -> tuple[dict[str, float], str]:
  """The figures of `Evaluation.monitor` and their description."""
  with told_by(evaluation, "monitor"):
    found = evaluation.monitor(bench, state)
    if not isinstance(found, Mapping):
      kind = type(found).__name__
      raise ValueError(f"must return a dict of numbers, not {kind}")
    for name, value in found.items():
      if not _is_number(value):
        raise ValueError(f"{name} must be a number; got {value!r:.60}")
    is_ranking = evaluation.ranks and evaluation.look_every() != 0
    if is_ranking and evaluation.ranks not in found:
      raise ValueError(
        f"must return {evaluation.ranks}, which `ranks` names; it returns"
        f" {', '.join(found) or 'nothing'}"
      )
  with told_by(evaluation, "describe"):
    return dict(found), str(evaluation.describe(found) or "") if found else ""


def run(
  evaluation: Evaluation, bench: Any, state: Any
) -> dict[str, Any] | None:
  """The figures of `Evaluation.run`; they must fit into `results.json`."""
  with told_by(evaluation, "run"):
    found = evaluation.run(bench, state)
    if found is None:
      return None
    if not isinstance(found, Mapping):
      kind = type(found).__name__
      raise ValueError(f"must return a dict or None, not {kind}")
    json.dumps(to_json(found))
    return dict(found)


def rows(evaluation: Evaluation, figures: Mapping[str, Any]) -> list[Row]:
  """The rows of `Evaluation.rows`; plain tuples are allowed."""
  with told_by(evaluation, "rows"):
    found = evaluation.rows(figures)
    if not isinstance(found, list | tuple) or not all(map(_is_row, found)):
      raise ValueError(
        "must return a list of Row(title, value, note), all of them text; got"
        f" {found!r:.80}"
      )
    return [Row(*row) for row in found]


def curves(
  kind: type[Evaluation], figures: Mapping[str, Any]
) -> dict[str, Curve]:
  """The curves of `Evaluation.curves`."""
  found = kind.curves(figures)
  if not isinstance(found, Mapping) or not all(map(_is_curve, found.values())):
    raise ValueError(f"must return a dict of Curves; got {found!r:.80}")
  return dict(found)


def pictures(
  kind: type[Evaluation], figures: Mapping[str, Mapping[str, Any]]
) -> list[Picture | str]:
  """The pictures and sentences of `Evaluation.pictures`."""
  found = kind.pictures(figures)
  if not isinstance(found, list | tuple) or not all(map(_is_shown, found)):
    raise ValueError(
      f"must return a list of Pictures and texts; got {found!r:.80}"
    )
  return list(found)


def _is_curve(found: Any) -> bool:
  is_curve = isinstance(found, Curve)
  return is_curve and all(isinstance(x, str) for x in (found.title, found.unit))


def _is_shown(found: Any) -> bool:
  if not isinstance(found, Picture):
    return isinstance(found, str)
  return isinstance(found.png, bytes) and all(
    isinstance(x, str) for x in (found.alt, found.caption)
  )


def _is_number(value: Any) -> bool:
  try:
    float(value)
  except (TypeError, ValueError):
    return False
  return True


def _is_row(row: Any) -> bool:
  is_tuple = isinstance(row, list | tuple) and len(row) in (2, 3)
  return is_tuple and all(isinstance(text, str) for text in row)
