"""Makes the standard streams robust, so printing never fails a program."""

import os
import sys

_STREAMS = 3  # stdin, stdout, stderr


def prepare() -> None:
  """Makes the standard streams accept whatever a program prints.

  Characters that they cannot encode are escaped. Closed streams become
  `os.devnull`: otherwise the next opened file would get their number, and
  libraries would print into it.
  """
  for number in range(_STREAMS):
    try:
      os.fstat(number)
    except OSError:
      # os.open takes the lowest free number, which is this one.
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
  for name in ("stdout", "stderr"):
    stream = getattr(sys, name)
    if stream is None:
      setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    elif hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")


def flush() -> None:
  """Flushes stdout before the end of a program.

  The reader may have closed the pipe, as `head` does.

  Raises:
    OSError: another failure, such as a full disk.
  """
  try:
    sys.stdout.flush()
  except OSError as error:
    # Python would flush again at exit, and print a trace.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
      raise
