"""What the clients of buckets raise, in one line; files that are read once."""

from collections.abc import Iterator
import contextlib
import os
import re

from essl_jax.errors import UsageError, is_forbidden
from essl_jax.storage import places
from essl_jax.texts import first_line

# As gcsfs says it of names that no bucket has, and of buckets that cost.
_WRONG = re.compile(r"Bad Request: |Bucket is requester pays")
_REFUSED = (400, 401, 403, "400", "401", "403")


@contextlib.contextmanager
def refused(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns a bucket's refusal of the first requests into a UsageError.

  Args:
    path: in the bucket, which somebody has named; what a path of this machine
      raises passes.

  Raises:
    UsageError: there is no such bucket, nothing of that name, or it may not be
      used.
  """
  bucket = _bucket(path)
  try:
    yield
  except UsageError:
    raise
  except FileNotFoundError as error:
    if not bucket:
      raise
    raise UsageError(f"cannot use {path}: {missing(path)}") from error
  except Exception as error:
    if not bucket or not _is_refusal(error):
      raise
    # Without its cause, which alone would be trouble of the network.
    raise UsageError(
      f"cannot use {path} ({first_line(error)}): log in (gcloud auth"
      " application-default login, or the credentials of S3), ask for"
      f" permission to read and write objects in {bucket}, or choose another"
    ) from None


def _bucket(path: str | os.PathLike[str]) -> str:
  """`gs://BUCKET`; empty for a path of this machine."""
  text = os.fspath(path)
  return "/".join(text.split("/", 3)[:3]) if places.is_remote(text) else ""


def missing(path: str | os.PathLike[str]) -> str:
  """What of a path in a bucket is not there; nothing of other paths."""
  bucket = _bucket(path)
  if not bucket:
    return ""
  if _exists(bucket):
    return f"there is nothing of that name in {bucket}: correct it"
  return f"there is no bucket {bucket}: make it, or correct the name"


def _exists(bucket: str) -> bool:
  """Whether there is a bucket, be it empty; asks for nothing but a list."""
  first = {"max_results": 1} if bucket.startswith("gs:") else {}
  try:
    places.client(bucket).ls(bucket, detail=False, **first)
  except FileNotFoundError:
    return False
  return True


def check_metadata(path: str | os.PathLike[str]) -> None:
  """Asks for the kind of a bucket, as Orbax does by Google's own client.

  Args:
    path: `gs://BUCKET/...`, which may be written.

  Raises:
    UsageError: that client may not, or cannot ask.
  """
  from orbax.checkpoint._src.path import gcs_utils

  try:
    gcs_utils.is_hierarchical_namespace_enabled(path)
  except Exception as error:
    if _is_refusal(error):
      raise UsageError(
        f"cannot use {path} ({first_line(error)}): checkpoints need the right"
        " storage.buckets.get: ask for the role storage.legacyBucketReader of"
        f" {_bucket(path)} besides storage.objectUser, or choose another"
      ) from None
    if "Project was not passed" in str(error):
      raise UsageError(
        f"cannot use {path} ({first_line(error)}): set GOOGLE_CLOUD_PROJECT to"
        f" the project of {_bucket(path)}"
      ) from error
    raise


def holds(path: str | os.PathLike[str], name: str) -> bool:
  """Whether something is at a path in a bucket, before it is written.

  Args:
    path: `gs://BUCKET/...`.
    name: what the path is, for messages.

  Returns:
    Whether it would be replaced.

  Raises:
    UsageError: there is no such bucket, or it may not be used.
  """
  with refused(path):
    if places.exists(places.locate(path, name)):
      return True
    if not _exists(_bucket(path)):
      raise FileNotFoundError(os.fspath(path))
    return False


def check_folder(path: str | os.PathLike[str], name: str) -> None:
  """Refuses a folder of a bucket that is not there, or cannot be read.

  Args:
    path: `gs://BUCKET/FOLDER`.
    name: what the path is, for messages.

  Raises:
    UsageError: in one line.
  """
  with refused(path):
    if not places.is_folder(places.locate(path, name)):
      raise UsageError(f"{name}={os.fspath(path)!r}: {missing(path)}")


@contextlib.contextmanager
def local_copy(
  path: str | os.PathLike[str], name: str
) -> Iterator[str | os.PathLike[str]]:
  """A file as one of this machine: itself, or a copy while it is used.

  Args:
    path: of this machine, or `gs://BUCKET/...`.
    name: what the path is, for messages.

  Yields:
    Its path here.

  Raises:
    UsageError: the bucket, or the file in it, cannot be read. Those about the
      copy name the file in the bucket.
  """
  if not places.is_remote(path):
    yield path
    return
  with contextlib.ExitStack() as stack:
    with refused(path):
      remote = places.locate(path, name)
      copy = stack.enter_context(places.local_copy(remote))
    stack.enter_context(named(copy, path))
    yield copy


@contextlib.contextmanager
def named(
  copy: str | os.PathLike[str], path: str | os.PathLike[str]
) -> Iterator[None]:
  """Lets a UsageError about a copy name the path that it is of."""
  try:
    yield
  except UsageError as error:
    told = str(error).replace(os.fspath(copy), os.fspath(path))
    raise UsageError(told) from error


def _is_refusal(error: Exception) -> bool:
  """Whether a server says no to who asks, or to what."""
  kind = f"{type(error).__module__}.{type(error).__name__}"
  if kind.startswith("google.auth.") and "Transport" not in kind:
    return True
  if getattr(error, "code", None) in _REFUSED or "Credentials" in kind:
    return True
  if isinstance(error, ValueError) and _WRONG.match(str(error)):
    return True
  return isinstance(error, PermissionError) or is_forbidden(error)
