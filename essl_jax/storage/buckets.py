"""What the clients of buckets raise, in one line."""

from collections.abc import Iterator
import contextlib
import os

from essl_jax.errors import UsageError, describe_trouble
from essl_jax.texts import first_line

_REFUSED = ("401", "403")


@contextlib.contextmanager
def refused(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns a bucket's refusal of the first requests into a UsageError.

  Args:
    path: in the bucket, which somebody has named.

  Raises:
    UsageError: there is no such bucket, or it may not be used.
  """
  bucket = "/".join(os.fspath(path).split("/", 3)[:3])
  try:
    yield
  except UsageError:
    raise
  except FileNotFoundError as error:
    raise UsageError(
      f"cannot use {path}: there is no bucket {bucket}: make it, or correct"
      " the name"
    ) from error
  except Exception as error:
    if not _is_refusal(error):
      raise
    raise UsageError(
      f"cannot use {path} ({first_line(error)}): log in (gcloud auth"
      " application-default login, or the credentials of S3), ask for"
      f" permission to read and write objects in {bucket}, or choose another"
    ) from error


def _is_refusal(error: Exception) -> bool:
  """Whether a server knows who asks and says no, or does not know who asks."""
  kind = f"{type(error).__module__}.{type(error).__name__}"
  if kind.startswith("google.auth.") and "Transport" not in kind:
    return True
  if str(getattr(error, "code", "")) in _REFUSED or "Credentials" in kind:
    return True
  is_forbidden = isinstance(error, OSError) and "Forbidden" in str(error)
  return isinstance(error, PermissionError) or (
    is_forbidden and not describe_trouble(error)
  )
