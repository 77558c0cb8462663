"""The command lines of the programs beside `main`."""

import argparse
from typing import NoReturn

from essl_jax.errors import UsageError


class Parser(argparse.ArgumentParser):
  """Tells what is wrong in one line, as `main` does."""

  def error(self, message: str) -> NoReturn:
    """Raises UsageError in place of printing the usage and exiting."""
    raise UsageError(f"{message}; --help shows the usage")
