"""Files and folders, local or in buckets.

A bucket's objects appear whole or not at all, and can neither be appended to
nor renamed. fsspec reaches them: `gs://` by gcsfs, `s3://` by s3fs. A failed
request is retried for about half a minute, then raises an exception; it never
returns a wrong answer.
"""

from collections.abc import Iterator
import contextlib
import errno
import importlib.util
import logging
import os
import pathlib
from typing import Any, TypeAlias

# If TensorFlow is installed, epath would read buckets by TensorFlow's client,
# which knows only Google's servers.
os.environ.setdefault("EPATH_USE_TF", "false")
# gcsfs would ask for each bucket's kind by gRPC, which no test here covers.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

from etils import epath

from essl_jax.errors import UsageError
from essl_jax.storage import lock
from essl_jax.texts import unfit

Path: TypeAlias = epath.Path

# The package that reads a scheme, and the extra that installs it.
_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
_KNOWN = " or ".join(f"{scheme}://BUCKET/..." for scheme in _PACKAGES)
_CONNECT_SECONDS, _READ_SECONDS = 10, 30  # until a request is tried again
# The same for TensorStore, which would wait forever.
_TENSORSTORE = {
  "CONNECT_TIMEOUT_SECONDS": _CONNECT_SECONDS,
  "LOW_SPEED_TIME_SECONDS": _READ_SECONDS,
  "LOW_SPEED_LIMIT_BYTES": 1,
}


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Whether a path lies in a bucket."""
  return "://" in os.fspath(path)


def locate(path: str | os.PathLike[str], name: str = "workdir") -> Path:
  """Makes a path absolute; for one in a bucket, prepares the client.

  Args:
    path: local, or `gs://BUCKET/...`, `s3://BUCKET/...`.
    name: what the path is, for messages.

  Returns:
    The path; it need not exist.

  Raises:
    UsageError: it is not a valid path, or nothing installed reads its scheme.
  """
  text = os.fspath(path)
  if wrong := unfit(text):
    raise UsageError(f"the path {text!r:.200} {wrong}")
  if is_remote(text):
    _check_remote(text, name)
    return epath.Path(text.rstrip("/"))
  if text.startswith(tuple(f"{scheme}:" for scheme in _PACKAGES)):
    raise UsageError(
      f"{name} {text} is not a path in a bucket: give {_KNOWN}, or ./{text} for"
      " a local folder"
    )
  try:
    return epath.Path(pathlib.Path(text).expanduser().absolute())
  except RuntimeError as error:
    raise UsageError(
      f"{name} {text} is in the home of a user who does not exist: write"
      " the full path"
    ) from error


def _check_remote(text: str, name: str) -> None:
  scheme, _, rest = text.partition("://")
  if scheme not in _PACKAGES:
    known = "gs://BUCKET/..." if name == "workdir" else _KNOWN
    raise UsageError(
      f"{name} {text} has the unknown scheme {scheme}://: give {known}, or a"
      " local folder"
    )
  bucket, _, inside = rest.partition("/")
  if not bucket or not inside.strip("/"):
    raise UsageError(
      f"{name} {text} names no folder in a bucket: give"
      f" {scheme}://BUCKET/FOLDER"
    )
  if ".." in inside.split("/"):  # some clients take it for an ordinary name
    raise UsageError(
      f"{name} {text} has .. in its path, but a bucket has no parent folders:"
      " write the full path"
    )
  package, extra = _PACKAGES[scheme]
  if importlib.util.find_spec(package) is None:
    raise UsageError(
      f"{name} {text} needs the package {package}: pip install"
      f" 'essl-jax[{extra}]', or give a local folder"
    )
  _configure(scheme)


def _configure(scheme: str) -> None:
  """Sets defaults of the clients that the user has not set."""
  from etils.epath import backend, gpath
  import fsspec.config  # installed only with the extras for buckets

  # Orbax asks epath, whose own `isdir` says no if the server fails.
  backend.fsspec_backend.isdir = is_folder  # type: ignore[method-assign]
  gpath._is_tf_installed.cache_clear()  # it may hold an older answer
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # errors are raised
  # Cached listings would hide files that other processes write.
  options: dict[str, Any] = {"use_listings_cache": False}
  if scheme == "gs":
    import aiohttp

    options["requests_timeout"] = aiohttp.ClientTimeout(
      sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS
    )
    for name, value in _TENSORSTORE.items():
      os.environ.setdefault(f"TENSORSTORE_CURL_{name}", str(value))
    if "STORAGE_EMULATOR_HOST" in os.environ:
      options |= {"token": "anon", "project": "test"}
    names = ("gs", "gcs")
  else:
    options["config_kwargs"] = {
      "connect_timeout": _CONNECT_SECONDS,
      "read_timeout": _READ_SECONDS,
      "retries": {"max_attempts": 6, "mode": "standard"},
    }
    names = ("s3", "s3a")
  for name in names:
    there = fsspec.config.conf.setdefault(name, {})
    for key, value in options.items():
      there.setdefault(key, value)


def client(path: str | os.PathLike[str]) -> Any:
  """Returns the fsspec file system of a path in a bucket, as epath uses it."""
  from etils.epath import backend

  return backend.fsspec_backend.fs(os.fspath(path))


def exists(path: str | os.PathLike[str]) -> bool:
  """Whether there is a file, a folder or a link, even a broken link."""
  if not is_remote(path):
    return os.path.lexists(path)
  try:
    client(path).info(os.fspath(path))
  except FileNotFoundError:
    return False
  return True


def is_folder(path: str | os.PathLike[str]) -> bool:
  """Whether there is a folder; in a bucket, objects below that name."""
  if not is_remote(path):
    return os.path.isdir(path)
  try:
    return client(path).info(os.fspath(path))["type"] == "directory"
  except FileNotFoundError:
    return False


def resolve(path: Path) -> Path:
  """Resolves links in a path, which epath does not."""
  return path if is_remote(path) else epath.Path(os.path.realpath(path))


def names(folder: str | os.PathLike[str]) -> list[str]:
  """Lists the names in a folder; empty if it does not exist."""
  if not is_remote(folder):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  base = os.fspath(folder)
  try:
    found = client(base).ls(base, detail=False)
  except FileNotFoundError:
    return []
  below = (x.rstrip("/").rpartition("/")[2] for x in found)
  own = base.partition("://")[2]
  return sorted(
    {x for x, y in zip(below, found, strict=True) if y.rstrip("/") != own}
  )


def rename(path: Path, new: Path) -> None:
  """Renames a file or folder; the new name must be free.

  In a bucket, all objects are copied first, so a kill may leave both.
  """
  if is_remote(path):
    client(path).mv(os.fspath(path), os.fspath(new), recursive=True)
  else:
    os.rename(path, new)


def replace_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file so that it is never seen half-written.

  Args:
    path: file to write or replace; its directory must exist.
    text: its new content.

  Raises:
    OSError: if the file cannot be written.
  """
  replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: str | os.PathLike[str], content: bytes) -> None:
  """Like `replace_text`, for bytes."""
  if is_remote(path):
    client(path).pipe_file(os.fspath(path), content)
    return
  file = pathlib.Path(path)
  if file.exists() and not (file.is_file() or file.is_dir()):
    what = "a pipe or device is there"  # a file would replace it
    raise OSError(errno.EEXIST, what, os.fspath(path))
  temporary = lock.temporary(file)
  try:
    with temporary.open("wb") as stream:
      stream.write(content)
      stream.flush()
      os.fsync(stream.fileno())
    temporary.replace(file)
  finally:
    temporary.unlink(missing_ok=True)


def remove(path: str | os.PathLike[str]) -> None:
  """Removes a file if it exists."""
  with contextlib.suppress(FileNotFoundError):
    if is_remote(path):
      client(path).rm_file(os.fspath(path))
    else:
      os.unlink(path)


def remove_folder(path: str | os.PathLike[str]) -> None:
  """Removes a folder and its contents if it exists."""
  with contextlib.suppress(FileNotFoundError):
    epath.Path(path).rmtree()


@contextlib.contextmanager
def local_copy(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Gives a local path of a file: its own, or that of a temporary copy."""
  import tempfile

  if not is_remote(path):
    yield pathlib.Path(path)
    return
  with tempfile.TemporaryDirectory(prefix="essl_jax_") as folder:
    copy = pathlib.Path(folder) / os.fspath(path).rpartition("/")[2]
    client(path).get_file(os.fspath(path), str(copy))
    yield copy
