"""Local copies of objects in buckets, up to a stated size.

All programs of a user share them. A copy's name is a digest of its object's
path, size and version, so a copy is never out of date. Copies appear whole or
not at all. The least recently used ones make room for new ones.
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
_PART = ".part"  # suffix of a copy that is being written
_SAID = 2**30  # bytes from which copying is slow enough to announce
_AT_ONCE = 4  # objects; clients read each in several parts at once
# Fractions of the limit: written between two checks of the size, and kept when
# the cache was too large.
_LOOK, _KEPT = 0.1, 0.8


def location() -> pathlib.Path:
  """Returns the folder of the copies, in the user's cache folder."""
  base = os.environ.get("XDG_CACHE_HOME", "")
  if not os.path.isabs(base):  # the XDG specification ignores relative paths
    base = os.path.join(os.path.expanduser("~"), ".cache")
  return pathlib.Path(base) / "essl_jax" / "buckets"


class Cache:
  """The local copies, with a limit on their total size.

  Threads and processes may use it at the same time.
  """

  def __init__(self, gib: float):
    """Makes the folder.

    Args:
      gib: limit for all copies together, in GiB; 0 keeps none. Files in use
        stay. Each process checks the size after writing a tenth of the limit.
    """
    self._limit = int(gib * 2**30)
    self._folder = location()
    self._lock = threading.Lock()
    self._unseen = self._limit  # bytes written since the last check of the size
    if self._limit:
      try:
        self._folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=self._folder).close()
      except OSError as error:
        self._stop(error)

  def read(self, what: Object) -> bytes:
    """Reads an object, from its local copy if there is one.

    Args:
      what: as listed. If another object has replaced it since, that one is read
        but not kept.

    Returns:
      The whole content.

    Raises:
      FileNotFoundError: the object no longer exists.
      OSError: it cannot be read; clients raise other errors too.
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
    """Whether these objects fit into the cache together."""
    return sum(x.size for x in objects) <= self._limit

  @contextlib.contextmanager
  def hold(
    self, objects: Sequence[Object], wanted: Sequence[Object] | None = None
  ) -> Iterator[pathlib.Path]:
    """Copies objects to files of the same names in one folder, while in use.

    Objects that do not fit into the cache go to a temporary folder.

    Args:
      objects: all objects of the set; their versions identify the folder.
      wanted: those of them to copy; all when absent.

    Yields:
      The folder.

    Raises:
      UsageError: an object was replaced while it was copied.
      OSError: an object cannot be read, or a file cannot be written; clients
        raise other errors too.
    """
    wanted = objects if wanted is None else wanted
    with contextlib.ExitStack() as stack:
      if self._limit and self.fits(wanted):
        folder = self._folder / _SETS / _digest(objects)
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_locked(folder / ".used", fcntl.LOCK_SH))
        # One process copies; the others wait for it.
        with _locked(folder / ".filled", fcntl.LOCK_EX):
          self._fill(folder, wanted)
      else:
        temporary = tempfile.TemporaryDirectory(prefix="essl_jax_")
        folder = pathlib.Path(stack.enter_context(temporary))
        _fetch(wanted, folder)
      yield folder

  def _fill(self, folder: pathlib.Path, wanted: Sequence[Object]) -> None:
    for part in folder.glob(f"*{_PART}"):  # left by a program that was killed
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
    """Continues without copies and says so once."""
    with self._lock:
      is_first, self._limit = self._limit > 0, 0
    if is_first:
      print(
        f"essl_jax: cannot keep copies of bucket objects in {self._folder}"
        f" ({error.strerror or error}): reading from the bucket each time",
        file=sys.stderr,
      )

  def _make_room(self, more: int = 0) -> None:
    """Removes the oldest unused copies if the cache is too large."""
    with contextlib.ExitStack() as stack:
      lock = self._folder / ".lock"
      if not stack.enter_context(_locked(lock, fcntl.LOCK_EX, wait=False)):
        return  # another process is doing it
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
  """Copies objects to files of the same names, each whole or not at all."""

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
  """Yields when each file was last used, its size and its path."""
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
  """Locks a file; yields whether it worked: file systems may lack locks."""
  with open(path, "ab") as file:
    try:
      fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except OSError:
      yield False
    else:
      yield True
