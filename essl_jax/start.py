"""The first import of every program: JAX, which looks at the environment.

It ends a program whose environment JAX refuses, and comes before all that
imports JAX.
"""

import sys

try:
  import jax  # noqa: F401
except ValueError as error:  # such as of JAX_ENABLE_X64=maybe
  _why = " ".join(str(error).split())
  sys.stderr.write(
    f"error: JAX cannot be imported ({_why}): see to the environment variables"
    " JAX_..., or install JAX again\n"
  )
  sys.exit(2)
