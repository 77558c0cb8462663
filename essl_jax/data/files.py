"""Where the files of a data set are: on this machine, or in a bucket."""

from collections.abc import Iterator, Sequence
from concurrent import futures
import contextlib
import os
import pathlib
from typing import NamedTuple, Protocol

from essl_jax.data.limits import regular_size
from essl_jax.errors import UsageError
from essl_jax.storage import buckets, objects, places
from essl_jax.storage.cache import Cache

_LISTED_AT_ONCE = 16  # folders
# The headers of arrays, and what compressing cannot make smaller.
_BESIDE_ARRAYS = 2**20


class Entry(Protocol):
  """What is in a folder, as `os.DirEntry`."""

  @property
  def name(self) -> str:
    """What follows the last slash."""

  @property
  def path(self) -> str:
    """The folder's path with it."""

  def is_dir(self) -> bool:
    """Whether it is a folder, or a link to one."""

  def is_symlink(self) -> bool:
    """Whether it is a link."""


class Files(Protocol):
  """A folder with folders and files in it.

  Attributes:
    root: its path.
  """

  root: str

  def entries(self, folder: str) -> Sequence[Entry]:
    """What is in a folder, sorted by name; OSError where it cannot be read."""

  def is_link(self, path: str) -> bool:
    """Whether a path is a link."""

  def real(self, path: str) -> str:
    """The path that links lead to."""

  def size(self, path: str) -> int:
    """The bytes of a file, which is not opened for it; see `regular_size`."""

  def read(self, path: str) -> bytes:
    """A file's content; several threads may read."""


def open_folder(directory: str, cache_gib: float) -> Files:
  """Finds a folder.

  Args:
    directory: `config.data.dir`.
    cache_gib: as `config.data.cache_gib`.

  Returns:
    Its files.

  Raises:
    UsageError: it is no path.
    FileNotFoundError: there is no such folder.
  """
  if places.is_remote(directory):
    path = places.locate(directory, "data.dir")
    if not places.is_folder(path):
      raise FileNotFoundError(directory)
    return _InBucket(str(path), Cache(cache_gib))
  root = pathlib.Path(directory).expanduser()
  if not root.is_dir():
    raise FileNotFoundError(directory)
  return _OnDisk(str(root))


class _OnDisk:
  """Files of this machine: see `Files`."""

  def __init__(self, root: str):
    self.root = root

  def entries(self, folder: str) -> Sequence[Entry]:
    with os.scandir(folder) as found:
      return sorted(found, key=lambda entry: entry.name)

  def is_link(self, path: str) -> bool:
    return os.path.islink(path)

  def real(self, path: str) -> str:
    return os.path.realpath(path)

  def size(self, path: str) -> int:
    return regular_size(path)

  def read(self, path: str) -> bytes:
    size = regular_size(path)
    with open(path, "rb") as file:
      return file.read(size)


class _Listed(NamedTuple):
  """An `Entry` of a bucket, where there are no links."""

  name: str
  path: str
  is_folder: bool

  def is_dir(self) -> bool:
    return self.is_folder

  def is_symlink(self) -> bool:
    return False


class _InBucket:
  """Objects of a bucket: see `Files`.

  A folder is listed with all that is in it when it is first asked for, and
  never again. Only the root's folders are listed each by itself.
  """

  def __init__(self, root: str, cache: Cache):
    self.root = root
    self._cache = cache
    # By folder, the names in it, of folders with a slash; of others the size
    # and the version.
    self._found: dict[str, dict[str, tuple[int, str] | None]] = {}

  def entries(self, folder: str) -> Sequence[Entry]:
    if folder not in self._found:
      self._list(folder)
    found = [
      _Listed(name.rstrip("/"), f"{folder}/{name.rstrip('/')}", what is None)
      for name, what in self._found[folder].items()
    ]
    return sorted(found)

  def _list(self, folder: str) -> None:
    names, there = objects.in_folder(folder)
    self._found[folder] = {f"{name}/": None for name in names}
    if folder != self.root:
      with futures.ThreadPoolExecutor(_LISTED_AT_ONCE) as pool:
        paths = [f"{folder}/{name}" for name in names]
        for found in pool.map(objects.below, paths):
          self._add(found)
    self._add(there)

  def _add(self, found: Sequence[objects.Object]) -> None:
    for what in found:
      path, _, name = what.path.rpartition("/")
      self._known(path)[name] = (what.size, what.version)

  def _known(self, folder: str) -> dict[str, tuple[int, str] | None]:
    """What is known of a folder, which those around it then have."""
    if folder not in self._found:
      around, _, name = folder.rpartition("/")
      self._known(around)[f"{name}/"] = None
      self._found[folder] = {}
    return self._found[folder]

  def is_link(self, path: str) -> bool:
    return False

  def real(self, path: str) -> str:
    return path

  def size(self, path: str) -> int:
    return self._look(path).size

  def read(self, path: str) -> bytes:
    return self._cache.read(self._look(path))

  def _look(self, path: str) -> objects.Object:
    folder, _, name = path.rpartition("/")
    found = self._found[folder][name]
    assert found is not None
    return objects.Object(path, *found)


@contextlib.contextmanager
def together(
  folder: str | os.PathLike[str],
  names: Sequence[str],
  max_bytes: int,
  cache_gib: float,
) -> Iterator[pathlib.Path]:
  """Some files of a folder as files of this machine, while they are read.

  Args:
    folder: of this machine, which is given back, or in a bucket.
    names: of the files.
    max_bytes: what the arrays in each may take.
    cache_gib: as `config.data.cache_gib`.

  Yields:
    A folder that has them.

  Raises:
    UsageError: one of them is not there, cannot be read in the bucket, or is
      so large that its arrays must be; others then name the bucket's files.
  """
  if not places.is_remote(folder):
    yield pathlib.Path(folder).expanduser()
    return
  paths = [places.locate(f"{folder}/{name}", "data") for name in names]
  found = []
  with contextlib.ExitStack() as stack:
    for path in paths:
      with buckets.refused(path):
        found.append(objects.look(path))
      _check_size(found[-1], max_bytes)
    with buckets.refused(paths[0]):
      copies = stack.enter_context(Cache(cache_gib).hold(found))
    stack.enter_context(buckets.named(copies, folder))
    yield copies


def _check_size(what: objects.Object, max_bytes: int) -> None:
  if what.size > max_bytes + _BESIDE_ARRAYS:
    raise UsageError(
      f"{what.path} has {what.size:,} bytes, and config.data.max_bytes allows"
      f" arrays of {max_bytes:,}"
    )
