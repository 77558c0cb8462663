"""What is read from disk at most: regular files, of sizes that are known.

A pipe or a device never ends, and a file of kilobytes can promise gigabytes, so
both are looked at before memory is taken.
"""

import errno
import os
import stat
import threading
from typing import Any
import weakref

FREE = 2**22  # so little is not counted
# Of links in a circle and of names that no file can have.
_NO_FILE = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)


class NotReadableError(ValueError):
  """A path leads to no file that may be read; says why."""


def regular_size(path: str | os.PathLike[str]) -> int:
  """The bytes of a regular file, which is not opened for it.

  Args:
    path: of the file, or of a link to it.

  Returns:
    Its size.

  Raises:
    NotReadableError: it is a folder, a pipe, a socket, a device or a link that
      leads nowhere.
    OSError: it does not exist or may not be looked at.
  """
  try:
    found = os.stat(path)
  except OSError as error:
    if error.errno in _NO_FILE:
      raise NotReadableError(f"no regular file: {error.strerror}") from error
    raise
  if not stat.S_ISREG(found.st_mode):
    kinds = {
      stat.S_IFDIR: "a folder",
      stat.S_IFIFO: "a pipe",
      stat.S_IFSOCK: "a socket",
    }
    kind = kinds.get(stat.S_IFMT(found.st_mode), "a device")
    raise NotReadableError(f"no regular file, but {kind}")
  return found.st_size


class Room:
  """What threads may hold in memory together; who needs more waits.

  A single piece may be as large as the room. Small ones are not counted.

  Attributes:
    size: bytes or pixels.
  """

  def __init__(self, size: int):
    self.size = size
    self.held = 0
    self._changed = threading.Condition()

  def take(self, number: int) -> None:
    """Waits until there is room for so many, which `give_back` frees."""
    if number > FREE:
      with self._changed:
        self._changed.wait_for(
          lambda: not self.held or self.held + number <= self.size
        )
        self.held += number

  def give_back(self, number: int) -> None:
    """Frees what was taken."""
    if number > FREE:
      with self._changed:
        self.held -= number
        self._changed.notify_all()

  def give_back_with(self, owner: Any, number: int) -> None:
    """Frees what was taken once nobody holds `owner`."""
    if number > FREE:
      weakref.finalize(owner, self.give_back, number)
