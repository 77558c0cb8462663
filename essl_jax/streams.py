"""Standard streams that do not fail a program."""

import os
import sys

_STREAMS = 3  # stdin, stdout, stderr


def prepare() -> None:
  """Gives a program streams that take whatever it prints.

  A character that they have no code for is escaped. What is closed becomes
  `os.devnull`: otherwise the next file that is opened would take its place, and
  get what libraries print.
  """
  for number in range(_STREAMS):
    try:
      os.fstat(number)
    except OSError:
      # The lowest number that is free.
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
  for name in ("stdout", "stderr"):
    stream = getattr(sys, name)
    if stream is None:
      setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    elif hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")


def flush() -> None:
  """Writes out what was printed; before the end of a program.

  Whoever reads it may have left, as `head` does.

  Raises:
    OSError: of other trouble, such as a full disk.
  """
  try:
    sys.stdout.flush()
  except OSError as error:
    # Python would try again at its end, and say so in a trace.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
      raise
