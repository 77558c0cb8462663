"""The exception for wrong input, and user's code that fails."""

from collections.abc import Iterator
import contextlib

from essl_jax.texts import first_line


class UsageError(ValueError):
  """Wrong input, told in one line: what is wrong, what is allowed, what to do.

  `python -m essl_jax.main` prints the message without a stack trace and exits
  with code 2.
  """


@contextlib.contextmanager
def told(
  where: str, passing: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
  """Turns any exception of a user's code into a UsageError of one line.

  Args:
    where: names the code, such as `config.method=my_idea:MyMethod`.
    passing: exceptions that mean something else, and pass unchanged.

  Raises:
    UsageError: in place of the exception, with its first line, and with its
      type unless it is a plain ValueError. `sys.exit` counts, Ctrl-C does not.
  """
  try:
    yield
  except UsageError:
    raise
  except passing:
    raise
  except (Exception, SystemExit) as error:
    line = first_line(error, with_type=type(error) is not ValueError)
    raise UsageError(f"{where}: {line}") from error
