"""Injects faults into chosen system calls: builds and controls inject.c."""

import ctypes
import mmap
import os
import pathlib
import shutil
import subprocess
from typing import Self

CALLS = (
  "open",  # of a file that is there
  "create",
  "write",
  "sync",
  "rename",
  "mkdir",
  "link",
  "remove",
)
CHANGING = CALLS[1:]
COUNT, FAIL, FAIL_FROM, KILL, PHOTOGRAPH = range(5)


class _Entry(ctypes.Structure):
  _fields_ = (("call", ctypes.c_int32), ("name", ctypes.c_char * 200))


class Control(ctypes.Structure):
  """The settings and counts of inject.c: its `struct control`."""

  _fields_ = (
    ("armed", ctypes.c_int32),
    ("calls", ctypes.c_int32),
    ("action", ctypes.c_int32),
    ("at", ctypes.c_int32),
    ("error", ctypes.c_int32),
    ("count", ctypes.c_int32),
    ("fired", ctypes.c_int32),
    ("entries", ctypes.c_int32),
    ("folder", ctypes.c_char * 1024),
    ("pattern", ctypes.c_char * 256),
    ("photographs", ctypes.c_char * 1024),
    ("log", _Entry * (1 << 14)),
  )

  @classmethod
  def open(cls, path: pathlib.Path) -> Self:
    """Maps the file that the variable FAULTS names; makes it if need be."""
    with path.open("a+b") as file:
      file.truncate(ctypes.sizeof(cls))
      return cls.from_buffer(mmap.mmap(file.fileno(), 0))

  def arm(
    self,
    folder: pathlib.Path,
    *,
    calls: tuple[str, ...] = CHANGING,
    pattern: str = "*",
    action: int = COUNT,
    at: int = 1 << 30,
    error: int = 0,
    photographs: pathlib.Path = pathlib.Path(),
  ) -> None:
    """Counts calls on files below a folder from now on.

    Args:
      folder: absolute.
      calls: those of `CALLS` that count.
      pattern: of the paths below the folder that count; `*` matches slashes.
      action: FAIL fails call number `at`, FAIL_FROM those behind it too; KILL
        kills the process before it; PHOTOGRAPH copies the folder before every
        one; COUNT logs them all.
      at: from 1.
      error: errno of a call that fails.
      photographs: folder of the copies.
    """
    self.armed = self.count = self.fired = self.entries = 0
    self.folder = os.fsencode(folder)
    self.pattern = pattern.encode()
    self.photographs = os.fsencode(photographs)
    self.calls = sum(1 << CALLS.index(call) for call in calls)
    self.action, self.at, self.error = action, at, error
    self.armed = 1

  def logged(self) -> list[tuple[str, str]]:
    """The calls that COUNT has seen: name and path below the folder."""
    found = self.log[: self.entries]
    return [(CALLS[x.call], os.fsdecode(x.name)) for x in found]


def build(folder: pathlib.Path) -> dict[str, str] | None:
  """Compiles the library.

  Args:
    folder: for it and its control.

  Returns:
    The variables of a program that is to be disturbed; None where there is no
    compiler.
  """
  compiler = shutil.which("cc")
  if compiler is None:
    return None
  source, library = pathlib.Path(__file__).parent / "inject.c", folder / "i.so"
  subprocess.run(
    [compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"],
    check=True,
    timeout=60,
  )
  Control.open(folder / "control")  # the library looks for it but once
  return {"LD_PRELOAD": str(library), "FAULTS": str(folder / "control")}
