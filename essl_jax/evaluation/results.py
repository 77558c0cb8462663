"""The results of a run: `results.json`, a picture and one table."""

from collections.abc import Mapping
import dataclasses
import itertools
import json
from typing import Any

import jax

from essl_jax import config as config_lib
from essl_jax.config.parts import EVALUATION
from essl_jax.data.labels import numbering
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import broken, guard, pictures, shown, timing
from essl_jax.evaluation.evaluation import Row, figures_of
from essl_jax.loggers import several
from essl_jax.storage import environment, logs, metrics, places, weights
from essl_jax.storage.preemption import Stopped
from essl_jax.storage.workdir import read_config, to_json, write_json
from essl_jax.texts import first_line
from essl_jax.training import step as step_lib

# What was measured before `config.evaluate_network` existed.
_USUAL = {"network": "online", "encoder_features": "output"}


def write(
  bench: bench_lib.Bench,
  workdir: places.Path,
  state: step_lib.TrainState,
  step: int,
  origin: weights.Origin | None = None,
  loggers: several.Loggers | None = None,
) -> None:
  """Measures a state, writes the results of its run, and prints a table.

  `results.json` marks the run as finished. Until then, the results so far are
  in `results.partial.json` after each evaluation, so a failing evaluation does
  not lose the figures of those before. Figures of other evaluations of the same
  step stay. `mode=finetune` adds figures to those of earlier runs and keeps
  everything else in `results.json`.

  Args:
    bench: the run's evaluations.
    workdir: contains the figures of training and `starts.json`.
    state: the state to measure.
    step: the state's step.
    origin: where the networks come from, if this run has not trained them.
    loggers: show the figures too.
  """
  experiment = bench.experiment
  path, partial = workdir / "results.json", workdir / "results.partial.json"
  before = json.loads(path.read_text()) if places.exists(path) else {}
  known = _circumstances(bench, origin)
  with bench.encoding.remembering(state):
    results = _results(bench, workdir, step, before, known)
    for evaluation in bench.evaluations:
      bench.run(evaluation, state)
      results = _results(bench, workdir, step, before, known)
      if jax.process_index() == 0:
        write_json(partial, results)
    if jax.process_index() > 0:
      return
    write_json(path, results)  # even if the rows fail below
    places.remove(partial)
    rows = _rows(bench, results)
    results["rows"] = results.get("rows", {}) | rows
    write_json(path, results)
    places.remove_folder(workdir / "probe")
    if loggers is not None and loggers.are_there:
      shown.results(loggers, bench, state, step, results)
    lines = _lines(rows)
    if experiment.config.mode != "finetune":
      lines = [
        *_left_out(results["data"]["broken"]),
        *lines,
        *timing.rows(results["training"]),
        *_picture(bench, workdir, state),
      ]
  title = f"{experiment.name}, step {step:,}"
  if bench.measured["network"] == "target":
    title += ", target network"
  if origin:
    title = f"{origin.path} on {experiment.config.data.name}"
  logs.summary_table(title, [*lines, ("results", str(path))])


def _results(
  bench: bench_lib.Bench,
  workdir: places.Path,
  step: int,
  before: Mapping[str, Any],
  known: Mapping[str, Any],
) -> dict[str, Any]:
  """The results so far, in process 0; all processes must call this."""
  left_out = broken.left_out(bench.sources)
  if jax.process_index() > 0:
    return {}
  if bench.experiment.config.mode == "finetune":
    results = {**known, **before}
    _add(results, bench, bench.figures, step)
    return results
  is_same = before.get("step") == step
  is_same &= before.get("measured", _USUAL) == bench.measured
  same = before if is_same else {}
  measured = {x for figures in bench.figures.values() for x in figures}
  untrained = {
    name: x
    for name, x in same.get("untrained", {}).items()
    if name not in measured
  }
  return {
    "step": step,
    "data": {"broken": left_out} | numbering(bench.experiment.labelled),
    "untrained": untrained | _untrained(bench, workdir, bench.figures),
    "figures": same.get("figures", {}) | bench.figures,
    "rows": same.get("rows", {}),
    **_accumulated(bench, before),
    "training": timing.training(workdir, bench.experiment),
    **known,
  }


def _picture(
  bench: bench_lib.Bench, workdir: places.Path, state: step_lib.TrainState
) -> list[tuple[str, str]]:
  """Draws `summary.png`; returns its line of the table, or none on failure."""
  try:
    return [("picture", str(pictures.write_summary(workdir, bench, state)))]
  except Stopped:
    raise
  except Exception as error:  # all figures are already written
    print(f"warning: no summary.png: {first_line(error, with_type=True)}")
    return []


def _accumulated(
  bench: bench_lib.Bench, before: Mapping[str, Any]
) -> dict[str, Any]:
  """Accumulated figures of earlier runs, which are kept."""
  known = map(EVALUATION.find, EVALUATION.names())
  asked = config_lib.evaluations(bench.experiment.config)
  return {
    x.name: before.get(x.name, {}) for x in (*known, *asked) if x.accumulates
  }


def _add(
  results: dict[str, Any],
  bench: bench_lib.Bench,
  figures: Mapping[str, Any],
  step: int,
) -> None:
  """Adds the figures of `mode=finetune` to the results of a run."""
  for evaluation in bench.evaluations:
    name = evaluation.name
    if name in figures and evaluation.accumulates:
      added = {x: each | {"step": step} for x, each in figures[name].items()}
      results[name] = results.get(name, {}) | added
    elif name in figures:
      there = results.get("figures", {})
      results["figures"] = there | {name: figures[name] | {"step": step}}


def _rows(
  bench: bench_lib.Bench, results: Mapping[str, Any]
) -> dict[str, list[Row]]:
  """The rows of all figures, by evaluation.

  `mode=finetune` shows only its own figures; other modes also show those of
  earlier fine-tunings.
  """
  config = bench.experiment.config
  known = list(bench.evaluations)
  if config.mode != "finetune":
    known += config_lib.evaluations(config)
  rows = {}
  for evaluation in dict.fromkeys(known):
    if found := figures_of(evaluation, results):
      try:
        rows[evaluation.name] = guard.rows(evaluation, found)
      except UsageError as error:
        if evaluation.name in bench.figures:
          raise
        print(f"warning: figures of an earlier run are not shown: {error}")
  return rows


def _left_out(found: Mapping[str, Any]) -> list[tuple[str, str]]:
  """The broken images of the data, as a line of the table."""
  said = broken.describe(found)
  return [(broken.TITLE, said)] if said else []


def _lines(rows: Mapping[str, list[Row]]) -> list[tuple[str, str]]:
  """The lines of the table: every figure with its protocol."""
  return [
    (row.title + (f" ({row.note})" if row.note else ""), row.value)
    for row in itertools.chain.from_iterable(rows.values())
  ]


def _circumstances(
  bench: bench_lib.Bench, origin: weights.Origin | None
) -> dict[str, Any]:
  """Machine, config, what is measured, and the origin of the networks."""
  found = {
    "environment": environment.describe(),
    "config": config_lib.to_dict(bench.experiment.config),
    "measured": bench.measured,
  }
  if origin:
    found["initialised_from"] = dataclasses.asdict(origin)
  return found


def _untrained(
  bench: bench_lib.Bench, workdir: places.Path, figures: Mapping[str, Any]
) -> dict[str, Any]:
  """The figures logged at step 0, if the ranking figure is comparable.

  The evaluation that ranks checkpoints defines the circumstances.
  """
  before = metrics.at(workdir, 0)
  ranking = next((x for x in bench.evaluations if x.ranks in before), None)
  if ranking is None or ranking.name not in figures:
    return {}
  config = bench.experiment.config
  now, begun_with = config_lib.to_dict(config), read_config(workdir)
  features = begun_with.get("evaluate_features", _USUAL["encoder_features"])
  if features != config.evaluate_features:
    return {}
  if begun_with.get(ranking.section) != to_json(now.get(ranking.section)):
    return {}
  after = figures[ranking.name]
  names = set(ranking.circumstances).difference(before)
  protocol = {k: v for k, v in after.items() if k in names}
  if begun_with.get("measures", {}).get("images") != config.measures.images:
    # Ranks of another number of images are not comparable.
    before = {k: v for k, v in before.items() if k in after}
  return before | protocol
