"""`python -m essl_jax` is `essl-jax`."""

import sys

from essl_jax import commands

if __name__ == "__main__":
  sys.exit(commands.run())
