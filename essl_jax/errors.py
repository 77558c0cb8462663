"""Wrong input, failures of the machine, and how programs report both."""

from collections.abc import Iterator
import contextlib
import errno
import os
import re

from essl_jax.texts import first_line, message, printable, shortened

_ROOM = "make room on the disk, or raise the quota"
_DISK = "check the disk"
_LIMIT = "raise the limit of open files (ulimit -n)"
_MEMORY = (
  "not enough memory or threads: give the run more, or reduce its needs, such"
  " as by a smaller batch_size or more micro_batches"
)
# Failures that no input can cause, and what to do about them.
_TROUBLES = {
  errno.ENOSPC: _ROOM,
  errno.EDQUOT: _ROOM,
  errno.EIO: _DISK,
  errno.EROFS: _DISK,
  errno.ESTALE: _DISK,
  errno.ENODEV: _DISK,
  errno.ENXIO: _DISK,
  errno.EMFILE: _LIMIT,
  errno.ENFILE: _LIMIT,
  errno.EPIPE: "keep the program that reads the output",
}
# Failures that only wrong input causes.
_MISTAKES = {
  errno.ENAMETOOLONG: (
    "a name has at most 255 bytes, and a path 4095: give a shorter one"
  ),
  errno.ELOOP: "its links form a circle: give another path",
}
# The words of XLA, CUDA, TensorFlow and C++.
_OUT_OF_MEMORY = re.compile(
  r"RESOURCE_EXHAUSTED|out.of.memory|\bOOM\b|bad_alloc"
  "|cannot allocate memory|can't start new thread",
  re.IGNORECASE,
)
# Modules of the clients of buckets, which have already retried for a while.
_NETWORK = (
  "aiohttp.",
  "botocore.",
  "gcsfs.",
  "google.api_core.",
  "google.auth.",
  "requests.",
  "urllib3.",
)
# TensorStore's words: its own codes, and those of its HTTP client.
_UNREACHABLE = re.compile(
  r"^(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|UNKNOWN|INTERNAL|UNAUTHENTICATED)"
  r"|CURL error|HTTP/?[\d.]* (401|403|408|429|5\d\d)"
)
# Complaints of JAX and Python about the environment, and what to do about them.
_OF_ENVIRONMENT = {
  re.compile(r"Unable to initialize backend|Unknown backend"): (
    "check the environment variables JAX_PLATFORMS, JAX_NUM_CPU_DEVICES and"
    " XLA_FLAGS"
  ),
  re.compile(r"Symlink loop"): "remove the link",
  re.compile(r"Disallowed .*transfer"): "unset JAX_TRANSFER_GUARD",
  re.compile(r"Could not determine home directory"): (
    "a path begins with ~ and the name of a user who does not exist, or HOME is"
    " unset: write out the path"
  ),
}
# TensorStore's errors, raised in Orbax, quote the code of the system.
_SYSTEM_CODE = re.compile(r"os_error_code='(\d+)'")
_QUOTED_PATH = re.compile(r'"(/[^"\\]*)')


class UsageError(ValueError):
  """Wrong input. One line says what is wrong, what is allowed, what to do.

  `python -m essl_jax.main` prints the message without a stack trace and exits
  with code 2. If the message quotes a very long value, its middle is cut out.
  """

  def __init__(self, message: str) -> None:
    super().__init__(shortened(message))


def line_and_code(error: BaseException) -> tuple[str, int] | None:
  """How an error ends a program, unless the error is a bug.

  Args:
    error: the exception that ends the program.

  Returns:
    One line to print and the exit code: 2 for wrong input, 1 for a failure of
    the machine or a loss that is not finite. None for a bug.
  """
  told = _line_and_code(error)
  return told and (printable(told[0]), told[1])


def _line_and_code(error: BaseException) -> tuple[str, int] | None:
  if trouble := describe_trouble(error):
    return trouble, 1
  if isinstance(error, UsageError):
    return message(error), 2
  if isinstance(error, FloatingPointError):
    return message(error), 1
  if isinstance(error, RuntimeError):
    for pattern, advice in _OF_ENVIRONMENT.items():
      if pattern.search(message(error)):
        return f"{first_line(error)}: {advice}", 2
  found = _of_system(error)
  if found is None:
    return None
  code, what = found
  if code in _MISTAKES:
    return f"{what}: {_MISTAKES[code]}", 2
  if code == errno.ENOENT and _is_folder_gone():
    return "the current folder has been removed: change to one that exists", 1
  return f"{what}: check what is at that path, and its permissions", 1


def _is_folder_gone() -> bool:
  try:
    os.getcwd()
  except FileNotFoundError:
    return True
  return False


def describe_trouble(error: BaseException | None) -> str:
  """Describes a failure of the machine in one line.

  Args:
    error: an error of any library; its causes count as well.

  Returns:
    What is wrong with disks (full, broken, read-only), open files, memory or
    networks; empty if the error is about something else.
  """
  seen: set[int] = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    found = _of_system(error)
    if found and found[0] in _TROUBLES:
      code, what = found
      return f"{what}: {_TROUBLES[code]}, then start the same command again"
    if _is_out_of_memory(error, found):
      return f"{_MEMORY} ({first_line(error)})"
    if _is_of_network(error):
      return (
        f"a bucket cannot be reached ({first_line(error, with_type=True)}):"
        " check the network and the permissions, then start the same command"
        " again"
      )
    hidden = error.__suppress_context__
    error = error.__cause__ or (None if hidden else error.__context__)
  return ""


def is_forbidden(error: BaseException) -> bool:
  """Whether this is gcsfs's error for a forbidden request (403)."""
  is_of_client = isinstance(error, OSError) and error.errno is None
  return is_of_client and message(error).startswith("Forbidden: ")


def _is_of_network(error: BaseException) -> bool:
  if type(error).__module__.startswith(_NETWORK) or is_forbidden(error):
    return True
  if isinstance(error, TimeoutError):
    return error.errno is None  # from a client, not from the system
  if isinstance(error, FileNotFoundError) and error.errno is None:
    # From gcsfs: an upload whose answer was lost is unknown when tried again.
    return bool(re.match("https?://", message(error)))
  is_of_store = isinstance(error, ValueError) and "gs://" in message(error)
  return is_of_store and bool(_UNREACHABLE.search(message(error)))


def _of_system(error: BaseException) -> tuple[int, str] | None:
  """The code of a system error, with its text and file; None for others."""
  if isinstance(error, OSError):
    code, name = error.errno, error.filename
    name = os.fsdecode(name) if isinstance(name, str | bytes) else ""
    what = error.strerror
  else:
    text = message(error)
    given, path = _SYSTEM_CODE.search(text), _QUOTED_PATH.search(text)
    code = int(given[1]) if given else None
    name, what = path[1] if path else "", None
  if code is None:
    return None
  what = what or os.strerror(code)
  return code, f"{name}: {what}" if name else what


def _is_out_of_memory(
  error: BaseException, found: tuple[int, str] | None
) -> bool:
  if found is not None:
    return found[0] == errno.ENOMEM
  if isinstance(error, UsageError | SystemExit):
    return False
  is_memory_error = isinstance(error, MemoryError)
  return is_memory_error or bool(_OUT_OF_MEMORY.search(message(error)))


@contextlib.contextmanager
def told(
  where: str, passing: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
  """Turns any exception in a user's code into a UsageError of one line.

  Args:
    where: names the code, such as `config.method=my_idea:MyMethod`.
    passing: exceptions that mean something else; they pass unchanged.

  Raises:
    UsageError: replaces the exception, with its first line, and its type unless
      it is a plain ValueError. It also replaces `sys.exit`, but not Ctrl-C or
      failures of the machine.
  """
  try:
    yield
  except UsageError:
    raise
  except passing:
    raise
  except (Exception, SystemExit) as error:
    if describe_trouble(error):
      raise
    line = first_line(error, with_type=type(error) is not ValueError)
    raise UsageError(f"{where}: {line}") from error
