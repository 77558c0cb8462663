"""Reads the files of a data set from this machine or from a bucket."""

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
# Bytes for array headers and the overhead of compression.
_BESIDE_ARRAYS = 2**20


class Entry(Protocol):
  """A file or folder in a folder, like `os.DirEntry`."""

  @property
  def name(self) -> str:
    """The part after the last slash."""

  @property
  def path(self) -> str:
    """The full path."""

  def is_dir(self) -> bool:
    """Whether it is a folder or a link to one."""

  def is_symlink(self) -> bool:
    """Whether it is a link."""


class Files(Protocol):
  """A folder of files and folders.

  Attributes:
    root: its path.
  """

  root: str

  def entries(self, folder: str) -> Sequence[Entry]:
    """Lists a folder, sorted by name; OSError if it cannot be read."""

  def is_link(self, path: str) -> bool:
    """Whether a path is a link."""

  def real(self, path: str) -> str:
    """Resolves links in a path."""

  def size(self, path: str) -> int:
    """Returns a file's size in bytes without opening it; see `regular_size`."""

  def read(self, path: str) -> bytes:
    """Reads a file; thread-safe."""


def open_folder(directory: str, cache_gib: float) -> Files:
  """Opens a folder for listing and reading.

  Args:
    directory: `config.data.dir`.
    cache_gib: `config.data.cache_gib`.

  Returns:
    Its files.

  Raises:
    UsageError: it is not a valid path.
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
  """Local files: see `Files`."""

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
  """An `Entry` of a bucket, which has no links."""

  name: str
  path: str
  is_folder: bool

  def is_dir(self) -> bool:
    return self.is_folder

  def is_symlink(self) -> bool:
    return False


class _InBucket:
  """Objects of a bucket: see `Files`.

  A folder is listed with everything below it when first asked for, and never
  again. Only the root is listed without its subfolders' contents.
  """

  def __init__(self, root: str, cache: Cache):
    self.root = root
    self._cache = cache
    # By folder, the names in it: folders end in a slash and map to None, files
    # map to their size and version.
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
    """Returns a folder's known entries; adds it to its parents if new."""
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
  """Makes files of a folder available locally, in one folder.

  Args:
    folder: a local folder, returned unchanged, or a folder in a bucket.
    names: of the files.
    max_bytes: limit for the arrays in each file.
    cache_gib: `config.data.cache_gib`.

  Yields:
    A local folder that has the files.

  Raises:
    UsageError: a file in a bucket is missing, unreadable or larger than its
      arrays may be. A UsageError raised about the copies names the bucket's
      files.
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
      f"{what.path} has {what.size:,} bytes, but config.data.max_bytes allows"
      f" arrays of {max_bytes:,}"
    )
