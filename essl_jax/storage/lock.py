"""Locks a folder for one program at a time."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import pathlib
import re

from essl_jax.errors import UsageError

NAME = ".lock"
# Names made by `temporary`; no other program uses them.
_TEMPORARY = re.compile(r"(.+)\.(\d+)\.essl\.tmp", re.DOTALL)
_LONGEST = 200  # bytes of the original name; the suffix is added


@contextlib.contextmanager
def alone(folder: pathlib.Path, refusal: str) -> Iterator[bool]:
  """Holds a folder for this program; its end frees the folder, even a kill.

  Args:
    folder: must exist.
    refusal: the message if another program holds it.

  Yields:
    Whether the folder is held. On a file system without locks it is not, and a
    warning says so.

  Raises:
    UsageError: another program holds it.
    OSError: the lock's file cannot be made.
  """
  path = folder / NAME
  while True:
    # Opened write-only, a pipe of that name would block. A link of that name
    # could create a file elsewhere.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    try:
      handle = os.open(path, flags, 0o666)
    except OSError as error:
      if error.errno not in (errno.EISDIR, errno.ELOOP):
        raise
      kind = "a folder" if path.is_dir() else "a link"
      raise UsageError(
        f"{path} is {kind}, but has to be a lock file: remove it or choose a"
        f" folder other than {folder}"
      ) from error
    try:
      is_held = _try(handle, path, refusal)
      if not is_held or _is_of(handle, path):
        yield is_held
        return
    finally:
      os.close(handle)


def _try(handle: int, path: pathlib.Path, refusal: str) -> bool:
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise UsageError(refusal) from error
  except OSError as error:
    print(
      f"warning: {path.parent} is on a file system without locks"
      f" ({error.strerror}): make sure that no other program writes there"
    )
    return False
  return True


def _is_of(handle: int, path: pathlib.Path) -> bool:
  """Whether the lock file still exists: its owner may just have removed it."""
  try:
    return os.path.samestat(os.fstat(handle), os.stat(path))
  except FileNotFoundError:
    return False


def temporary(path: pathlib.Path) -> pathlib.Path:
  """Returns where this process writes a file until it is complete."""
  return path.with_name(f"{_short(path.name)}.{os.getpid()}.essl.tmp")


def is_temporary(name: str) -> bool:
  """Whether a name is that of a temporary file, which a kill may leave."""
  return _TEMPORARY.fullmatch(name) is not None


def _short(name: str) -> str:
  return os.fsencode(name)[:_LONGEST].decode(errors="ignore")


def remove_left_overs(folder: pathlib.Path, name: str | None = None) -> None:
  """Removes the half-written files of programs that were killed.

  Args:
    folder: of the files; it need not exist. This process holds it, unless a
      name is given.
    name: of the file that this process is about to write. Others may write it
      too, so files of live processes stay.
  """
  names = os.listdir(folder) if folder.is_dir() else []
  for found in filter(None, map(_TEMPORARY.fullmatch, names)):
    of, process = found.groups()
    path = folder / found[0]
    is_left = name is None or (
      of == _short(name) and not _is_alive(int(process))
    )
    if is_left and path.is_file():
      path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except (PermissionError, OverflowError):  # another user's, or not our number
    return True
  return True
