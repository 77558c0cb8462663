"""Prints the page of all fields: `python -m essl_jax.config`."""

import essl_jax.start  # noqa: F401

# isort: split
from collections.abc import Sequence
import sys

from essl_jax import arguments as arguments_lib
from essl_jax.config import page


@arguments_lib.tells_wrong_input
def run(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  parser = arguments_lib.Parser(prog="essl_jax.config", description=__doc__)
  parser.parse_args(arguments)
  print(page.page(), end="")
  return 0


if __name__ == "__main__":
  sys.exit(run())
