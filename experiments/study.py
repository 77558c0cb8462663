"""The description of a table or figure, and the records of its cells on disk.

A script of this folder describes a `Study` and passes it to
`study_runner.main`. A cell is one run of the program with one seed. It is
finished once `results/<study>/<scale>/<cell>.json` or its workdir's
`results.json` exists, and is then never run again; an unfinished cell resumes
in its workdir.
"""

import essl_jax.start  # noqa: F401

# isort: split
import argparse
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
import re
import sys
from typing import Any

from essl_jax.errors import UsageError, told
from essl_jax.report.runs import is_number
from essl_jax.storage import json_files
from essl_jax.storage import workdir as workdir_lib
from essl_jax.texts import first_line

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
_NEEDED = {"device_count", "device_kind", "jax"}  # entries of an environment
_SIZES = {"small", "tiny"}  # variants that the folder's name implies


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of the program.

  Attributes:
    row: row of the table; the cells of a row differ only in the seed.
    recipe: a file of `configs/` without its ending, variants after a colon.
    seed: seed of the pre-training.
    flags: flags of the program, besides those of seed, data and workdir.
    label: distinguishes it from other cells of the same recipe and variants.
    data: the folder in --data-dir that it reads; None if it reads none.
    makes: name of data that the first cell with this name generates for the
      others.
  """

  row: str
  recipe: str
  seed: int
  flags: tuple[str, ...] = ()
  label: str = ""
  data: str | None = "."
  makes: str = ""

  @property
  def name(self) -> str:
    """Name of its workdir and of its file."""
    stem, _, variants = self.recipe.partition(":")
    parts = [x for x in variants.split(",") if x and x not in _SIZES]
    words = [stem, *parts, self.label, f"seed{self.seed}"]
    return "-".join(filter(None, words)).replace("=", "")

  @property
  def identity(self) -> dict[str, Any]:
    """The settings that identify the cell."""
    stem, _, variants = self.recipe.partition(":")
    config = f"configs/{stem}.py" + (f":{variants}" if variants else "")
    return {"config": config, "flags": list(self.flags), "seed": self.seed}


@dataclasses.dataclass(frozen=True)
class Quoted:
  """A published figure of the full recipe, shown beside ours.

  Attributes:
    row: row of the table.
    text: the figure and its kind, such as "linear 67.6".
    source: its source and protocol, and how certain it is.
  """

  row: str
  text: str
  source: str


@dataclasses.dataclass(frozen=True)
class Study:
  """A table or figure.

  Attributes:
    name: name of its folder.
    title: its question.
    cells: makes the cells of a scale and seeds.
    columns: titles of the table by figure; the first figure is compared with
      the baseline.
    read: takes the figures and the protocol from a `results.json`.
    draw: draws the records of cells into a matplotlib figure.
    captions: description of the cells by scale; the keys are the study's
      scales.
    seeds: default seeds by scale.
    quoted: published figures.
    baseline: the row with which others are compared seed by seed, if any.
  """

  name: str
  title: str
  cells: Callable[[str, Sequence[int]], list[Cell]]
  columns: Mapping[str, str]
  read: Callable[[Mapping[str, Any]], tuple[dict[str, Any], dict[str, Any]]]
  draw: Callable[[Any, list[dict[str, Any]]], None]
  captions: Mapping[str, str]
  seeds: Mapping[str, tuple[int, ...]]
  quoted: tuple[Quoted, ...] = ()
  baseline: str = ""


def list_cells(
  study: Study, options: argparse.Namespace, seeds: Sequence[int]
) -> list[Cell]:
  """The cells of the given seeds, with the flags for all cells."""
  return [
    dataclasses.replace(cell, flags=(*cell.flags, *options.flag))
    for cell in study.cells(options.scale, seeds)
  ]


def known_cells(study: Study, options: argparse.Namespace) -> list[Cell]:
  """The requested cells, and those of other seeds that have results."""
  names = [path.stem for path in options.results.glob("*-seed*.json")]
  found = [re.search(r"-seed(\d+)$", name) for name in names]
  seeds = {int(x.group(1)) for x in found if x} | set(options.seeds)
  return list_cells(study, options, sorted(seeds))


def command(cell: Cell, options: argparse.Namespace) -> list[str]:
  """The command that runs or resumes a cell, in `ROOT`."""
  words = [sys.executable, "-m", "essl_jax.main"]
  words += [f"--config={cell.identity['config']}", *cell.flags]
  words.append(f"--config.seed={cell.seed}")
  if options.data_dir and cell.data is not None:
    words.append(f"--config.data.dir={options.data_dir / cell.data}")
  return [*words, f"--workdir={options.workdirs / cell.name}"]


def log_path(cell: Cell, options: argparse.Namespace) -> pathlib.Path:
  """The log file for the program's output."""
  return options.workdirs / f"{cell.name}.log"


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The content of a JSON file.

  Args:
    path: path of the file.

  Returns:
    Its content.

  Raises:
    UsageError: it cannot be read.
  """
  try:
    return json_files.read_object(path)
  except (OSError, ValueError) as error:
    raise UsageError(
      f"cannot read {path} ({first_line(error)}): restore or remove it"
    ) from error


def check_identity(
  cell: Cell, found: Mapping[str, Any], path: pathlib.Path, remedy: str
) -> None:
  """Raises UsageError for files of another run under a cell's name.

  Args:
    cell: the cell that is looked for.
    found: settings of a run, read from a file.
    path: path of that file.
    remedy: what to do about it.

  Raises:
    UsageError: the file is of another run; says what differs.
  """
  different = [
    f"{key} is {found.get(key)!r} there, {value!r} here"
    for key, value in cell.identity.items()
    if found.get(key) != value
  ]
  if different:
    what = "; ".join(different)
    raise UsageError(f"{path} is of another run: {what}: {remedy}")


def claim(cell: Cell, options: argparse.Namespace) -> None:
  """Records which cell a workdir belongs to, or checks that record.

  Args:
    cell: the cell that uses the workdir.
    options: from `study_runner.parse`.

  Raises:
    UsageError: the workdir belongs to another run.
  """
  path = options.workdirs / f"{cell.name}.cell.json"
  if path.exists():
    check_identity(cell, read_json(path), path, "give other --workdirs")
  elif not options.dry_run:
    path.parent.mkdir(parents=True, exist_ok=True)
    workdir_lib.write_json(path, cell.identity)


def _check_record(
  study: Study, cell: Cell, record: Mapping[str, Any], path: pathlib.Path
) -> None:
  """Raises UsageError for a record that tables and figures cannot use."""
  figures, environment = record.get("figures"), record.get("environment")
  texts = [str(record.get("note", ""))]
  if isinstance(figures, dict) and isinstance(environment, dict):
    numbers = [record.get("wall_seconds"), *map(figures.get, study.columns)]
    texts += [environment.get(x) for x in ("git_commit", *_NEEDED)]
    if (
      environment.keys() >= _NEEDED
      and (record.get("name"), record.get("row")) == (cell.name, cell.row)
      and all(x is None or is_number(x) for x in numbers)
      and all(_is_told(x) for x in texts)
    ):
      return
  raise UsageError(
    f"{path} does not hold the figures of {cell.row}: restore or remove it"
  )


def _is_told(x: Any) -> bool:
  return isinstance(x, str | int | None) and str(x).isprintable()


def load(
  study: Study, cell: Cell, options: argparse.Namespace
) -> dict[str, Any] | None:
  """The record of a finished cell; writes it if that was not done yet.

  Args:
    study: the cell's study.
    cell: a cell, which may be unfinished.
    options: from `study_runner.parse`.

  Returns:
    The content of its file; None if it is not finished.

  Raises:
    UsageError: the file or the workdir is of another run, or broken.
  """
  path = options.results / f"{cell.name}.json"
  if path.exists():
    record = read_json(path)
    check_identity(cell, record, path, "move it away or give other --results")
    _check_record(study, cell, record, path)
    return record
  source = options.workdirs / cell.name / "results.json"
  if not source.exists():
    return None
  claim(cell, options)
  results = read_json(source)
  with told(f"cannot collect {source}"):
    found = cell.identity | {"seed": results["config"]["seed"]}
    check_identity(cell, found, source, "give other --workdirs")
    record = {"name": cell.name, "row": cell.row, **cell.identity}
    record["figures"], record["protocol"] = study.read(results)
    for name in ("wall_seconds", "source_images_per_second"):
      record[name] = results["training"].get(name)
    record |= {"environment": results["environment"], "note": options.note}
  _check_record(study, cell, record, source)
  if not options.dry_run:
    options.results.mkdir(parents=True, exist_ok=True)
    workdir_lib.write_json(path, record)
  return record
