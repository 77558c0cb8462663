"""Holds a workdir for one run at a time, checked before work begins."""

from collections.abc import Callable, Iterator
import contextlib
import os

import jax

from essl_jax.errors import UsageError, describe_trouble
from essl_jax.storage import buckets, lease, lock, places
from essl_jax.storage import workdir as workdir_lib
from essl_jax.texts import unfit

_PATTERNS = frozenset("*?[]\\")  # Orbax reads them as glob patterns
# Bytes: Linux allows 4095 and a bucket 1024, and checkpoints add some.
_LONGEST, _LONGEST_IN_BUCKET = 3800, 800


@contextlib.contextmanager
def hold(
  workdir: places.Path, prepare: Callable[[places.Path], None]
) -> Iterator[None]:
  """Holds a workdir for this run; all its processes call this.

  Only process 0 locks and writes. A refused run leaves nothing behind: it
  creates no workdir, and no files in an existing one.

  Args:
    workdir: of the run; created if missing.
    prepare: called by process 0 once the workdir is held.

  Raises:
    UsageError: in all processes: the path cannot be used, another program
      holds it, or `prepare` raised it.
  """
  with contextlib.ExitStack() as stack:
    problem = ""
    if jax.process_index() == 0:
      try:
        stack.enter_context(_held(workdir))
        prepare(workdir)
      except UsageError as error:
        problem = str(error)
      except OSError as error:
        if describe_trouble(error):
          raise
        problem = workdir_lib.unwritable(workdir, error)
    if problem := workdir_lib.from_process_0(problem):
      raise UsageError(problem)
    yield


@contextlib.contextmanager
def _held(workdir: places.Path) -> Iterator[None]:
  check_name(workdir)
  with (_in_bucket if places.is_remote(workdir) else _in_folder)(workdir):
    yield


@contextlib.contextmanager
def _in_bucket(workdir: places.Path) -> Iterator[None]:
  refusal = (
    f"another program is using workdir {workdir}: wait until it ends, or"
    " choose another --workdir"
  )
  with contextlib.ExitStack() as stack:
    with buckets.refused(workdir):
      stack.enter_context(lease.alone(workdir, refusal))
      for name in filter(lock.is_temporary, there := places.names(workdir)):
        places.remove(workdir / name)
    buckets.check_metadata(workdir)
    try:
      yield
    except UsageError:
      new = set(places.names(workdir)).difference(there)
      if not any(map(_is_of_work, new)) and "config.json" in new:
        places.remove(workdir / "config.json")
      raise


def _is_of_work(name: str) -> bool:
  is_of_others = lease.PATTERN.fullmatch(name) or lock.is_temporary(name)
  return not is_of_others and name != "config.json"


@contextlib.contextmanager
def _in_folder(workdir: places.Path) -> Iterator[None]:
  lineage = (workdir, *workdir.parents)
  made = [path for path in lineage if not places.exists(path)]
  workdir.mkdir(parents=True, exist_ok=True)
  there = set(os.listdir(workdir))
  refusal = (
    f"another program is using workdir {workdir}: wait until it ends, or"
    f" choose another --workdir (`fuser {workdir / lock.NAME}` shows it)"
  )
  with lock.alone(workdir, refusal) as is_held:
    if is_held:
      for folder in (workdir, *filter(os.path.isdir, workdir.iterdir())):
        lock.remove_left_overs(folder)
    try:
      yield
    except BaseException:
      _leave_nothing(workdir, there, made)
      raise


def _leave_nothing(
  workdir: places.Path, there: set[str], made: list[places.Path]
) -> None:
  """Removes the files and folders of a run if none is worth keeping."""
  new = [path for path in workdir.iterdir() if path.name not in there]
  empty = [x for x in new if x.is_dir() and not any(x.iterdir())]
  files = [x for x in new if x.name in ("config.json", lock.NAME)]
  if len(empty) + len(files) < len(new):
    return
  with contextlib.suppress(OSError):  # another program may use it by now
    for path in files:
      path.unlink()
    for path in (*empty, *made):
      os.rmdir(path)


def check_store(path: str | os.PathLike[str]) -> None:
  """Raises UsageError for buckets that Orbax cannot write to."""
  if os.fspath(path).startswith("s3://"):
    raise UsageError(
      f"workdir {os.fspath(path)} cannot be at s3://: Orbax cannot write"
      " checkpoints there: give --workdir=gs://BUCKET/FOLDER or a local folder;"
      " data and weights may be at s3://"
    )


def check_name(path: places.Path) -> None:
  """Raises UsageError for a path from which checkpoints cannot be read."""
  check_store(path)
  if why := unfit(str(path)):
    raise UsageError(
      f"the path of workdir {ascii(str(path)):.200} {why}: choose another"
      " --workdir"
    )
  if wrong := sorted(_PATTERNS.intersection(str(path))):
    raise UsageError(
      f"workdir {ascii(str(path))} has {wrong[0]} in its path, so checkpoints"
      " could not be read again: choose another --workdir"
    )
  most = _LONGEST_IN_BUCKET if places.is_remote(path) else _LONGEST
  if len(os.fsencode(path)) > most:
    raise UsageError(
      f"the path of workdir {str(path)[:60]}... is longer than {most}"
      " bytes: choose another --workdir"
    )
