"""Command lines of all programs except `main`."""

import argparse
from collections.abc import Callable
import functools
import sys
from typing import NoReturn, ParamSpec

from essl_jax import errors, streams
from essl_jax.errors import UsageError

_P = ParamSpec("_P")


def tells_wrong_input(main: Callable[_P, int]) -> Callable[_P, int]:
  """Makes a program report expected errors in one line, as `main` does.

  Args:
    main: returns the exit code, or raises.

  Returns:
    A function that prints the line and returns the exit code of
    `errors.line_and_code`. It re-raises errors that are bugs.
  """

  @functools.wraps(main)
  def run(*args: _P.args, **kwargs: _P.kwargs) -> int:
    streams.prepare()
    try:
      try:
        return main(*args, **kwargs)
      finally:
        streams.flush()  # also after --help, which raises SystemExit
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
  """Raises UsageError for the first of several options out of range.

  Args:
    options: the parsed command line.
    least: the smallest number.
    *names: names of the options to check.
    most: the largest number; the default is beyond any practical use.
  """
  for name in names:
    value, option = getattr(options, name), name.replace("_", "-")
    if not value >= least:  # also true for NaN
      raise UsageError(f"--{option} must be at least {least}; got {value}")
    if value > most:
      raise UsageError(f"--{option} must be at most {most}; got {value}")


class Parser(argparse.ArgumentParser):
  """Reports errors in one line, as `main` does."""

  def error(self, message: str) -> NoReturn:
    """Raises UsageError instead of printing the usage and exiting."""
    raise UsageError(f"{message}; --help shows the usage")
