"""`python -m essl_jax` does the same as `essl-jax`."""

import sys

from essl_jax import commands

if __name__ == "__main__":
  sys.exit(commands.run())
