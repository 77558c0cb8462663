"""Reads JSON files that may be damaged; a damaged one is a ValueError."""

from collections.abc import Iterable
import itertools
import json
import os
import stat
from typing import Any

from essl_jax.storage import places

_DEEPEST = 100  # far below Python's recursion limit
_LARGEST = 2**30  # bytes; a sparse file takes more memory than disk space
_TOO_DEEP = "it is nested too deeply"


class _TooLargeError(ValueError):
  """A file that would take too much memory."""


def read(path: places.Path) -> Any:
  """Reads a JSON file.

  Args:
    path: of the file.

  Returns:
    The content.

  Raises:
    ValueError: the file is not regular (reading it might never end), is larger
      than 1 GiB, or holds no JSON.
    OSError: it cannot be read.
  """
  return parse(_read_bytes(path))


def read_object(path: places.Path) -> dict[str, Any]:
  """Like `read`; raises ValueError if the content is not an object."""
  found = read(path)
  if not isinstance(found, dict):
    raise ValueError("it holds no JSON object")
  return found


def read_lines(
  path: places.Path, *, with_half: bool = False
) -> list[dict[str, Any] | None]:
  """Reads the lines of a JSONL file, except a half-written last line.

  Args:
    path: of the file.
    with_half: keeps a half-written last line, as None.

  Returns:
    An object for each line, None for a line that holds no object. A file larger
    than 1 GiB counts as one such line.

  Raises:
    ValueError: it is not a regular file.
    OSError: it cannot be read.
  """
  try:
    content = _read_bytes(path)
  except _TooLargeError:
    return [None]
  lines = content.splitlines()
  found = list(map(_object_or_none, lines))
  is_last_broken = bool(found) and found[-1] is None
  if is_last_broken and not with_half and not content.endswith(b"\n"):
    is_half = lines[-1].startswith(b"{") and lines[-1].isascii()
    del found[len(found) - is_half :]
  return found


def _object_or_none(line: bytes) -> dict[str, Any] | None:
  try:
    found = parse(line)
  except ValueError:
    return None
  return found if isinstance(found, dict) else None


def parse(text: bytes) -> Any:
  """Parses JSON in UTF-8; ValueError if it is invalid or nested too deeply."""
  try:
    found = json.loads(text.decode("utf-8"))
  except RecursionError as error:
    raise ValueError(_TOO_DEEP) from error
  level = [found]
  for _ in range(_DEEPEST):
    level = list(itertools.chain.from_iterable(map(_inner, level)))
    if not level:
      return found
  raise ValueError(_TOO_DEEP)


def _inner(value: Any) -> Iterable[Any]:
  if isinstance(value, dict):
    return value.values()
  return value if isinstance(value, list) else ()


def _read_bytes(path: places.Path) -> bytes:
  if not places.is_remote(path):
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
      raise ValueError("it is not a regular file")
    if found.st_size > _LARGEST:
      raise _TooLargeError(
        f"it has {found.st_size:,} bytes, more than {_LARGEST:,}"
      )
  return path.read_bytes()
