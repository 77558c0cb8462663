"""The program behind the scripts: runs missing cells, collects, reports."""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

import study as study_lib
import study_report

from essl_jax import arguments as arguments_lib
from essl_jax.errors import UsageError

POLL_SECONDS = 0.2


def parse(
  study: study_lib.Study, description: str, arguments: Sequence[str] | None
) -> argparse.Namespace:
  """The command line of every script that runs a study.

  Args:
    study: the study to run.
    description: description of the script.
    arguments: the command line; by default the process's own.

  Returns:
    The options with absolute folders; `results` and `workdirs` are those of
    this study and scale.

  Raises:
    UsageError: an unknown option or a value that is not allowed.
  """
  parser = arguments_lib.Parser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add(
    "--scale",
    choices=tuple(study.captions),
    default="small",
    help="full: the paper's recipe; medium: an hour per cell; small: minutes"
    " per cell (the default); smoke: only shows that it runs",
  )
  add(
    "--seeds",
    type=int,
    nargs="+",
    help="seeds of the pre-training, separated by spaces; by default the"
    " study's",
  )
  add("--rows", nargs="+", help="rows of the table to run; by default all")
  add("--data-dir", type=pathlib.Path, help="config.data.dir of the cells")
  add("--workdirs", type=pathlib.Path, help="default: runs/<study>_<scale>")
  add(
    "--results",
    type=pathlib.Path,
    default=study_lib.RESULTS,
    help="default: experiments/results",
  )
  add("--jobs", type=int, default=1, help="cells at a time, sharing the cores")
  add("--keep-going", action="store_true", help="continue after a cell failed")
  add("--collect-only", action="store_true", help="run nothing")
  add("--dry-run", action="store_true", help="list the cells, write nothing")
  add("--note", default="", help="text saved with the cells collected now")
  add(
    "--flag",
    action="append",
    default=[],
    help="flag for every cell, such as --flag=--config.precision=bfloat16",
  )
  options = parser.parse_args(arguments)
  options.seeds = options.seeds or list(study.seeds[options.scale])
  if len({x for x in options.seeds if 0 <= x < 2**32}) < len(options.seeds):
    given = " ".join(map(str, options.seeds))
    raise UsageError(
      f"--seeds must be different numbers from 0; got {given} (the largest is"
      " 2**32 - 1)"
    )
  arguments_lib.check_least(options, 1, "jobs", most=1000)
  default = pathlib.Path("runs", f"{study.name}_{options.scale}")
  options.workdirs = (options.workdirs or default).expanduser().absolute()
  options.results = options.results.expanduser().absolute()
  options.results = options.results / study.name / options.scale
  if options.data_dir:
    options.data_dir = options.data_dir.expanduser().absolute()
  return options


@dataclasses.dataclass
class _Running:
  cell: study_lib.Cell
  process: subprocess.Popen[bytes]
  begun: float


def run_cells(
  study: study_lib.Study,
  cells: Sequence[study_lib.Cell],
  options: argparse.Namespace,
) -> list[str]:
  """Runs or resumes cells, `options.jobs` at a time, and collects each.

  Args:
    study: the cells' study.
    cells: unfinished cells.
    options: from `parse`.

  Returns:
    A line for each failed cell. Without `keep_going`, the first failure stops
    the others, which save their state.

  Raises:
    UsageError: a workdir belongs to another run.
    KeyboardInterrupt: Ctrl-C or SIGTERM; the cells have saved their state.
  """
  for cell in cells:
    study_lib.claim(cell, options)
  waiting, failures = list(cells), []
  running: dict[int, _Running] = {}
  made: set[str] = set()
  try:
    while waiting or running:
      for slot in sorted(set(range(options.jobs)) - set(running)):
        cell = next_cell(waiting, [x.cell for x in running.values()], made)
        if cell is None:
          break
        waiting.remove(cell)
        number = f"{len(cells) - len(waiting)}/{len(cells)}"
        log = study_lib.log_path(cell, options)
        print(f"cell {number}, {cell.name}: log {log}", flush=True)
        process = start(cell, options, slot)
        running[slot] = _Running(cell, process, time.monotonic())
      time.sleep(POLL_SECONDS)
      for slot, one in list(running.items()):
        code = one.process.poll()
        if code is None:
          continue
        del running[slot]
        made.add(one.cell.makes)
        if study_lib.load(study, one.cell, options) is not None:
          seconds = time.monotonic() - one.begun
          print(f"{one.cell.name}: finished in {seconds:,.0f} s", flush=True)
          continue
        failures.append(_failure(one.cell, code, options))
        if not options.keep_going:
          return failures
  finally:
    for one in running.values():
      one.process.terminate()  # the program then saves its state
    for one in running.values():
      one.process.wait()
  return failures


def next_cell(
  waiting: Sequence[study_lib.Cell],
  running: Sequence[study_lib.Cell],
  made: set[str],
) -> study_lib.Cell | None:
  """The first cell whose data exist, or are not being generated by another."""
  making = {cell.makes for cell in running} - made - {""}
  return next((cell for cell in waiting if cell.makes not in making), None)


def start(
  cell: study_lib.Cell, options: argparse.Namespace, slot: int
) -> subprocess.Popen[bytes]:
  """Starts the program on a cell; its output goes to the cell's log.

  Args:
    cell: the cell to run.
    options: from `parse`.
    slot: number of the job below `options.jobs`, which determines its cores.

  Returns:
    The process.

  Raises:
    UsageError: another process runs this cell.
  """
  path = study_lib.log_path(cell, options)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("ab") as log, _share_of_cores(slot, options.jobs):
    try:
      # The child holds the open file, so the lock outlives this process.
      fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise UsageError(
        f"another process runs cell {cell.name} and writes {path}: wait for"
        " it, or stop it"
      ) from error
    return subprocess.Popen(
      study_lib.command(cell, options),
      cwd=study_lib.ROOT,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      process_group=0,  # Ctrl-C reaches only this program, which ends the cells
    )


@contextlib.contextmanager
def _share_of_cores(slot: int, jobs: int) -> Iterator[None]:
  """Gives processes started within every `jobs`-th core, from `slot` on."""
  if jobs == 1 or not hasattr(os, "sched_setaffinity"):
    yield
    return
  cores = sorted(os.sched_getaffinity(0))
  share = cores[slot % len(cores) :: jobs]
  os.sched_setaffinity(0, share)
  try:
    yield
  finally:
    os.sched_setaffinity(0, cores)


def _failure(
  cell: study_lib.Cell, code: int, options: argparse.Namespace
) -> str:
  """One line about a failed cell: the reason, its log and its command."""
  path = study_lib.log_path(cell, options)
  lines = path.read_text(errors="replace").split("\n") if path.exists() else []
  said = [line.strip() for line in lines if line.strip()] or ["no output"]
  ended = f"failed with exit code {code}" if code else "stopped before its end"
  command = shlex.join(study_lib.command(cell, options))
  return (
    f"cell {cell.name} {ended}: {said[-1]}; log: {path}; command: {command}"
  )


@arguments_lib.tells_wrong_input
def main(
  study: study_lib.Study,
  description: str,
  arguments: Sequence[str] | None = None,
) -> int:
  """Runs missing cells, collects, writes table and figure, prints the table.

  Args:
    study: the study to run.
    description: description of the script.
    arguments: the command line; by default the process's own.

  Returns:
    The exit code: 0; 1 if a cell failed; 2 for wrong input; 130 after Ctrl-C or
      SIGTERM.
  """
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    return _run(study, parse(study, description, arguments))
  except KeyboardInterrupt:
    print("stopped: the same command resumes from here", file=sys.stderr)
    return 130
  finally:
    signal.signal(signal.SIGTERM, before)


def _run(study: study_lib.Study, options: argparse.Namespace) -> int:
  cells = study_lib.list_cells(study, options, options.seeds)
  if options.rows:
    rows = list(dict.fromkeys(cell.row for cell in cells))
    if unknown := [row for row in options.rows if row not in rows]:
      names = ", ".join(map(repr, rows))
      raise UsageError(f"--rows: no row {unknown[0]!r}; there are {names}")
    cells = [cell for cell in cells if cell.row in options.rows]
  missing = [x for x in cells if study_lib.load(study, x, options) is None]
  if options.dry_run:
    for cell in cells:
      state = "missing" if cell in missing else "finished"
      words = shlex.join(study_lib.command(cell, options))
      print(f"{state:8}  {cell.name}  {words}")
    print(f"{len(missing)} of {len(cells)} cells are missing")
    return 0
  if options.data_dir and all(cell.data is None for cell in cells):
    print(
      f"--data-dir is not read: cells of --scale={options.scale} use images"
      " that come with the library"
    )
  failures: list[str] = []
  if missing and not options.collect_only:
    failures = run_cells(study, missing, options)
  known = study_lib.known_cells(study, options)
  found: list[Any] = [study_lib.load(study, cell, options) for cell in known]
  records = [record for record in found if record is not None]
  rows = list(dict.fromkeys(cell.row for cell in known))
  print(study_report.write(study, options, rows, records))
  there = {record["name"] for record in records}
  missing = [cell for cell in cells if cell.name not in there]
  if missing:
    names = ", ".join(cell.name for cell in missing)
    print(f"missing {len(missing)} of {len(cells)} cells: {names}")
  for line in failures:
    print(f"error: {line}", file=sys.stderr)
  return 1 if failures else 0
