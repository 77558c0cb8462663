"""Copies on this machine of objects in buckets, up to a stated size.

All programs of a user share them. A copy is called by the path, the size and
the version of its object, so it is never out of date, and it is whole or not
there. What was not used for longest makes room for what is new.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
import contextlib
import fcntl
import hashlib
import os
import pathlib
import sys
import tempfile
import threading

from essl_jax.errors import UsageError
from essl_jax.storage import places
from essl_jax.storage.objects import Object

_SETS = "sets"
_PART = ".part"  # of a copy that is being written
_SAID = 2**30  # bytes whose copying takes so long that it is said
_AT_ONCE = 4  # objects; clients read each in several parts at once
# Parts of the cache: written between two looks at its size, and what is kept
# where it was too large.
_LOOK, _KEPT = 0.1, 0.8


def location() -> pathlib.Path:
  """Where the copies are: in the user's folder of caches."""
  base = os.environ.get("XDG_CACHE_HOME", "")
  if not os.path.isabs(base):  # as its specification asks for
    base = os.path.join(os.path.expanduser("~"), ".cache")
  return pathlib.Path(base) / "essl_jax" / "buckets"


class Cache:
  """The copies, and what may be added to them.

  Threads and processes may use it at the same time.
  """

  def __init__(self, gib: float):
    """Makes its folder.

    Args:
      gib: how much all copies may take together; 0 keeps none. Files in use
        stay, and each process looks at the size after a tenth of this.
    """
    self._limit = int(gib * 2**30)
    self._folder = location()
    self._lock = threading.Lock()
    self._unseen = self._limit  # written since its size was looked at
    if self._limit:
      try:
        self._folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=self._folder).close()
      except OSError as error:
        self._stop(error)

  def read(self, what: Object) -> bytes:
    """The content of an object, from here where it is here.

    Args:
      what: as listed; what has replaced it since is read, but not kept.

    Returns:
      All of it.

    Raises:
      FileNotFoundError: it is not there any more.
      OSError: and others of clients: it cannot be read.
    """
    name = _digest([what])
    copy = self._folder / name[:2] / name[2:]
    with contextlib.suppress(OSError):
      content = copy.read_bytes() if self._limit else b""
      if self._limit and len(content) == what.size:
        os.utime(copy)
        return content
    content = places.client(what.path).cat_file(what.path)
    if self._limit and len(content) == what.size:
      self._keep(copy, content)
    return content

  def fits(self, objects: Iterable[Object]) -> bool:
    """Whether so many objects may be kept at the same time."""
    return sum(x.size for x in objects) <= self._limit

  @contextlib.contextmanager
  def hold(
    self, objects: Sequence[Object], wanted: Sequence[Object] | None = None
  ) -> Iterator[pathlib.Path]:
    """Objects as files under their names in one folder, while they are used.

    What does not fit is copied to a temporary folder.

    Args:
      objects: whose versions tell one set of files from another.
      wanted: those of them to copy; all when absent.

    Yields:
      The folder.

    Raises:
      UsageError: an object was replaced while it was copied.
      OSError: and others of clients: it cannot be read, or written here.
    """
    wanted = objects if wanted is None else wanted
    with contextlib.ExitStack() as stack:
      if self._limit and self.fits(wanted):
        folder = self._folder / _SETS / _digest(objects)
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_locked(folder / ".used", fcntl.LOCK_SH))
        # Of several processes one copies, and the others wait for it.
        with _locked(folder / ".filled", fcntl.LOCK_EX):
          self._fill(folder, wanted)
      else:
        temporary = tempfile.TemporaryDirectory(prefix="essl_jax_")
        folder = pathlib.Path(stack.enter_context(temporary))
        _fetch(wanted, folder)
      yield folder

  def _fill(self, folder: pathlib.Path, wanted: Sequence[Object]) -> None:
    for part in folder.glob(f"*{_PART}"):  # of a program that was killed
      part.unlink(missing_ok=True)
    missing = []
    for x in wanted:
      with contextlib.suppress(FileNotFoundError):
        os.utime(folder / x.name)
        continue
      missing.append(x)
    size = sum(x.size for x in missing)
    with self._lock:
      self._make_room(size)
    if size >= _SAID:
      print(
        f"essl_jax: copying {size / 2**30:.3g} GiB from"
        f" {missing[0].path.rpartition('/')[0]} to {folder}, once",
        file=sys.stderr,
        flush=True,
      )
    _fetch(missing, folder)

  def _keep(self, copy: pathlib.Path, content: bytes) -> None:
    part = None
    try:
      copy.parent.mkdir(exist_ok=True)
      handle, name = tempfile.mkstemp(suffix=_PART, dir=copy.parent)
      part = pathlib.Path(name)
      with open(handle, "wb") as file:
        file.write(content)
      part.replace(copy)
      with self._lock:
        self._unseen += len(content)
        if self._unseen >= self._limit * _LOOK:
          self._unseen = 0
          self._make_room()
    except OSError as error:
      if part is not None:
        part.unlink(missing_ok=True)
      self._stop(error)

  def _stop(self, error: OSError) -> None:
    """Goes on without copies, and says so once."""
    with self._lock:
      is_first, self._limit = self._limit > 0, 0
    if is_first:
      print(
        f"essl_jax: {self._folder} takes no copies of what is in buckets"
        f" ({error.strerror or error}): they are read there each time",
        file=sys.stderr,
      )

  def _make_room(self, more: int = 0) -> None:
    """Removes the oldest copies that nobody uses, where there are too many."""
    with contextlib.ExitStack() as stack:
      lock = self._folder / ".lock"
      if not stack.enter_context(_locked(lock, fcntl.LOCK_EX, wait=False)):
        return  # another process is at it
      found = sorted(_files(self._folder))
      total = more + sum(size for _, size, _ in found)
      if total <= self._limit:
        return
      free = {
        str(folder): stack.enter_context(
          _locked(folder / ".used", fcntl.LOCK_EX, wait=False)
        )
        for folder in (self._folder / _SETS).glob("*")
      }
      for _, size, path in found:
        if total <= self._limit * _KEPT:
          break
        if free.get(os.path.dirname(path), True):
          with contextlib.suppress(OSError):
            os.unlink(path)
            total -= size


def _fetch(objects: Sequence[Object], folder: pathlib.Path) -> None:
  """Copies objects to files of their names, each whole or not there."""

  def fetch(what: Object) -> None:
    part = folder / f"{what.name}{_PART}"
    try:
      places.client(what.path).get_file(what.path, str(part))
      if part.stat().st_size != what.size:
        raise UsageError(
          f"{what.path} was replaced while it was copied: start the same"
          " command again"
        )
      part.replace(folder / what.name)
    finally:
      part.unlink(missing_ok=True)

  with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
    jobs = [pool.submit(fetch, x) for x in objects]
    try:
      for job in jobs:
        job.result()
    finally:
      pool.shutdown(cancel_futures=True)


def _files(folder: str | os.PathLike[str]) -> Iterator[tuple[float, int, str]]:
  """When each file was last used, its size and its path."""
  with os.scandir(folder) as entries:
    for entry in entries:  # there may be a million
      if entry.is_dir(follow_symlinks=False):
        yield from _files(entry.path)
      elif entry.name[0] != ".":
        with contextlib.suppress(FileNotFoundError):
          found = entry.stat(follow_symlinks=False)
          yield found.st_mtime, found.st_size, entry.path


def _digest(objects: Iterable[Object]) -> str:
  text = "\n".join(f"{x.path}\n{x.size}\n{x.version}" for x in sorted(objects))
  return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _locked(
  path: pathlib.Path, kind: int, *, wait: bool = True
) -> Iterator[bool]:
  """Locks a file, and says whether it could; file systems may have no locks."""
  with open(path, "ab") as file:
    try:
      fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except OSError:
      yield False
    else:
      yield True
