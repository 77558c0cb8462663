"""Trains and evaluates from Python: `essl_jax.train`, `evaluate`, `recipes`."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from essl_jax import config as config_lib
from essl_jax import run as run_lib
from essl_jax.api import encoders
from essl_jax.config import flags as config_flags
from essl_jax.config import recipes as recipes_lib
from essl_jax.devices import cpu, parallel, processes
from essl_jax.errors import UsageError
from essl_jax.storage import about, claim, json_files, places
from essl_jax.storage.workdir import dotted, read_config


@dataclasses.dataclass(frozen=True)
class Run:
  """A run that has been trained or evaluated.

  Attributes:
    workdir: where everything was written.
    config: its config, checked.
    results: the content of `results.json`; empty unless the run has finished.
    is_finished: False if SIGTERM stopped it; the same call resumes it.
  """

  workdir: str
  config: config_lib.Config
  results: Mapping[str, Any]
  is_finished: bool = True

  @property
  def figures(self) -> Mapping[str, Any]:
    """The figures of each evaluation, such as `figures["knn"]["knn_top1"]`.

    Empty if the run has not finished.
    """
    return self.results.get("figures", {})

  @property
  def step(self) -> int | None:
    """The step of the evaluated checkpoint."""
    return self.results.get("step")

  def load(self) -> encoders.Encoder:
    """Loads the encoder of its latest checkpoint; see `essl_jax.load`."""
    return encoders.load(self.workdir)


def train(
  recipe: str | os.PathLike[str],
  *,
  workdir: str | os.PathLike[str] | None = None,
  **fields: Any,
) -> Run:
  """Pre-trains with a recipe and evaluates; `essl-jax train` from Python.

  Args:
    recipe: a name (`essl_jax.recipes()`) or a file, with variants after a
      colon: `cifar_simclr:small`.
    workdir: where everything is written; `runs/<recipe>` by default. An
      existing run resumes from its last checkpoint.
    **fields: of the config, with groups as dictionaries: `epochs=10`,
      `data={"name": "digits"}`.

  Returns:
    The run, with its figures.

  Raises:
    UsageError: the recipe, a field, the data or the workdir cannot be used; in
      one line.
    FloatingPointError: the loss is not finite.
  """
  cpu.tune()
  recipe, overrides = os.fspath(recipe), _by_name(fields)
  config = config_flags.load(recipe, overrides, print)
  words = [f"--config.{name}={x}" for name, x in overrides.items()]
  told = about.of_recipe(recipe, words)
  named = workdir if workdir is not None else recipes_lib.workdir(recipe)
  return _run(config, named, told)


def evaluate(run: str | os.PathLike[str] | Run, **fields: Any) -> Run:
  """Evaluates a run again with its own config, like `essl-jax evaluate`.

  Args:
    run: its workdir, or the result of `train`.
    **fields: config fields to change: `probe={"protocol": "paper"}`;
      `mode="finetune"` fine-tunes.

  Returns:
    The run, with all its figures.

  Raises:
    UsageError: it holds no checkpoint, or a field is wrong; in one line.
  """
  workdir = run.workdir if isinstance(run, Run) else run
  values = read_config(workdir)
  about.make_importable(workdir)
  cpu.tune()
  overrides = {"mode": "evaluate"} | _by_name(fields)
  values = config_flags.override(values, overrides)
  config = config_lib.parse(values, list(overrides))
  return _run(config, workdir, {})


def recipes() -> dict[str, str]:
  """Lists the recipes that come with the package.

  Returns:
    A line on each, by the name that `train` takes.
  """
  return recipes_lib.titles()


def _run(
  config: config_lib.Config,
  named: str | os.PathLike[str],
  told: Mapping[str, Any],
) -> Run:
  cpu.keep_compiled()
  claim.check_store(os.fspath(named))
  workdir = places.locate(named)
  parallel.all_devices()
  with processes.one_comparison() as agree:
    is_finished = run_lib.run(config, workdir, agree, told)
  path, results = workdir / "results.json", {}
  if is_finished and places.exists(path):  # else it is from an earlier call
    results = json_files.read_object(path)
  return Run(str(workdir), config, results, is_finished)


def _by_name(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Flattens fields to values by dotted names."""
  if empty := [name for name, x in fields.items() if x == {}]:
    raise UsageError(f"config.{empty[0]} has no fields: leave it out")
  return dotted(fields)
