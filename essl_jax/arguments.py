"""Command lines of all programs but `main`."""

import argparse
from collections.abc import Callable
import functools
import sys
from typing import NoReturn, ParamSpec

from essl_jax import errors, streams
from essl_jax.errors import UsageError

_P = ParamSpec("_P")


def tells_wrong_input(main: Callable[_P, int]) -> Callable[_P, int]:
  """Lets a program end wrong input and trouble with one line, as `main` does.

  Args:
    main: returns the exit code, or raises.

  Returns:
    The same function, which prints the line and returns the exit code of
    `errors.line_and_code`; what is a bug passes.
  """

  @functools.wraps(main)
  def run(*args: _P.args, **kwargs: _P.kwargs) -> int:
    streams.prepare()
    try:
      try:
        return main(*args, **kwargs)
      finally:
        streams.flush()  # also what --help prints, which leaves by SystemExit
    except KeyboardInterrupt:
      print("error: stopped by Ctrl-C", file=sys.stderr)
      return 130
    except Exception as error:
      told = errors.line_and_code(error)
      if told is None:
        raise
      line, code = told
      print(f"error: {line}", file=sys.stderr)
      return code

  return run


def check_least(
  options: argparse.Namespace, least: float, *names: str, most: float = 10**9
) -> None:
  """Raises UsageError for the first of some options that is out of range.

  Args:
    options: as they were parsed.
    least: the smallest number.
    *names: of the options.
    most: the largest number; by default what nobody has time for.
  """
  for name in names:
    value, option = getattr(options, name), name.replace("_", "-")
    if not value >= least:  # nor is NaN
      raise UsageError(f"--{option} must be at least {least}; got {value}")
    if value > most:
      raise UsageError(f"--{option} must be at most {most}; got {value}")


class Parser(argparse.ArgumentParser):
  """Tells what is wrong in one line, as `main` does."""

  def error(self, message: str) -> NoReturn:
    """Raises UsageError in place of printing the usage and exiting."""
    raise UsageError(f"{message}; --help shows the usage")
