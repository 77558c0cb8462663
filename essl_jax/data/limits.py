"""Limits what is read from disk: only regular files, and only so much at once.

A pipe or a device never ends, and a file of kilobytes can promise gigabytes, so
sizes are checked before memory is allocated.
"""

import errno
import os
import stat
import threading
from typing import Any
import weakref

FREE = 2**22  # amounts up to this are not counted
# Errors of circular links and of impossible names.
_NO_FILE = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)


class NotReadableError(ValueError):
  """A path is not a readable file; says why."""


def regular_size(path: str | os.PathLike[str]) -> int:
  """Returns the size of a regular file in bytes, without opening it.

  Args:
    path: of the file, or of a link to it.

  Returns:
    Its size.

  Raises:
    NotReadableError: it is a folder, a pipe, a socket, a device or a circular
      link.
    OSError: it does not exist, or access is denied.
  """
  try:
    found = os.stat(path)
  except OSError as error:
    if error.errno in _NO_FILE:
      raise NotReadableError(f"not a regular file: {error.strerror}") from error
    raise
  if not stat.S_ISREG(found.st_mode):
    kinds = {
      stat.S_IFDIR: "a folder",
      stat.S_IFIFO: "a pipe",
      stat.S_IFSOCK: "a socket",
    }
    kind = kinds.get(stat.S_IFMT(found.st_mode), "a device")
    raise NotReadableError(f"not a regular file but {kind}")
  return found.st_size


class Room:
  """A shared limit on the memory that threads hold; a thread waits for room.

  One piece may be as large as the room. Small pieces are not counted.

  Attributes:
    size: bytes or pixels.
  """

  def __init__(self, size: int):
    self.size = size
    self.held = 0
    self._changed = threading.Condition()

  def take(self, number: int) -> None:
    """Waits for room and takes it; `give_back` frees it."""
    if number > FREE:
      with self._changed:
        self._changed.wait_for(
          lambda: not self.held or self.held + number <= self.size
        )
        self.held += number

  def give_back(self, number: int) -> None:
    """Frees room that was taken."""
    if number > FREE:
      with self._changed:
        self.held -= number
        self._changed.notify_all()

  def give_back_with(self, owner: Any, number: int) -> None:
    """Frees room once nothing refers to `owner`."""
    if number > FREE:
      weakref.finalize(owner, self.give_back, number)
