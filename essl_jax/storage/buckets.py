"""One-line errors for buckets, and local copies of files read once."""

from collections.abc import Iterator
import contextlib
import os
import re

from essl_jax.errors import UsageError, is_forbidden
from essl_jax.storage import places
from essl_jax.texts import first_line

# How gcsfs reports invalid bucket names and requester-pays buckets.
_WRONG = re.compile(r"Bad Request: |Bucket is requester pays")
_REFUSED = (400, 401, 403, "400", "401", "403")


@contextlib.contextmanager
def refused(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns a bucket's refusal of the first requests into a UsageError.

  Args:
    path: in the bucket, as the user gave it. For a local path, errors pass
      unchanged.

  Raises:
    UsageError: the bucket or the path does not exist, or access is refused.
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
    # Drop the cause: on its own it would count as network trouble.
    raise UsageError(
      f"cannot use {path} ({first_line(error)}): log in (gcloud auth"
      " application-default login, or the credentials of S3), ask for"
      f" permission to read and write objects in {bucket}, or choose another"
      " bucket"
    ) from None


def _bucket(path: str | os.PathLike[str]) -> str:
  """Returns `gs://BUCKET`; empty for a local path."""
  text = os.fspath(path)
  return "/".join(text.split("/", 3)[:3]) if places.is_remote(text) else ""


def missing(path: str | os.PathLike[str]) -> str:
  """Says which part of a path in a bucket is missing; empty for local paths."""
  bucket = _bucket(path)
  if not bucket:
    return ""
  if _exists(bucket):
    return f"{bucket} has no such object or folder: correct the path"
  return f"there is no bucket {bucket}: create it or correct the name"


def _exists(bucket: str) -> bool:
  """Whether a bucket exists, even an empty one; needs only the list right."""
  first = {"max_results": 1} if bucket.startswith("gs:") else {}
  try:
    places.client(bucket).ls(bucket, detail=False, **first)
  except FileNotFoundError:
    return False
  return True


def check_metadata(path: str | os.PathLike[str]) -> None:
  """Asks for a bucket's kind through Google's client, as Orbax will.

  Args:
    path: `gs://BUCKET/...`, known to be writable.

  Raises:
    UsageError: that client is not allowed or not able to ask.
  """
  from orbax.checkpoint._src.path import gcs_utils

  try:
    gcs_utils.is_hierarchical_namespace_enabled(path)
  except Exception as error:
    if _is_refusal(error):
      raise UsageError(
        f"cannot use {path} ({first_line(error)}): checkpoints need the"
        " permission storage.buckets.get: ask for the role"
        f" storage.legacyBucketReader on {_bucket(path)} besides"
        " storage.objectUser, or choose another bucket"
      ) from None
    if "Project was not passed" in str(error):
      raise UsageError(
        f"cannot use {path} ({first_line(error)}): set GOOGLE_CLOUD_PROJECT to"
        f" the project of {_bucket(path)}"
      ) from error
    raise


def holds(path: str | os.PathLike[str], name: str) -> bool:
  """Whether writing a path in a bucket would replace something.

  Args:
    path: `gs://BUCKET/...`.
    name: what the path is, for messages.

  Raises:
    UsageError: the bucket does not exist, or access is refused.
  """
  with refused(path):
    if places.exists(places.locate(path, name)):
      return True
    if not _exists(_bucket(path)):
      raise FileNotFoundError(os.fspath(path))
    return False


def check_folder(path: str | os.PathLike[str], name: str) -> None:
  """Refuses a folder of a bucket that is missing or unreadable.

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
  """Gives a local path of a file: its own, or that of a temporary copy.

  Args:
    path: local, or `gs://BUCKET/...`.
    name: what the path is, for messages.

  Yields:
    The local path.

  Raises:
    UsageError: the bucket or the file cannot be read. A UsageError raised about
      the copy names the file in the bucket.
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
  """Makes a UsageError about a copy name the original path."""
  try:
    yield
  except UsageError as error:
    told = str(error).replace(os.fspath(copy), os.fspath(path))
    raise UsageError(told) from error


def _is_refusal(error: Exception) -> bool:
  """Whether a server rejects the user or the request."""
  kind = f"{type(error).__module__}.{type(error).__name__}"
  if kind.startswith("google.auth.") and "Transport" not in kind:
    return True
  if getattr(error, "code", None) in _REFUSED or "Credentials" in kind:
    return True
  if isinstance(error, ValueError) and _WRONG.match(str(error)):
    return True
  return isinstance(error, PermissionError) or is_forbidden(error)
