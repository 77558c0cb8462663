"""The first import of every program: JAX, which reads the environment.

It ends a program whose environment JAX rejects. It must precede all other
imports of JAX.
"""

import sys

try:
  import jax  # noqa: F401
except ValueError as error:  # such as for JAX_ENABLE_X64=maybe
  _why = " ".join(str(error).split())
  sys.stderr.write(
    f"error: JAX cannot be imported ({_why}): check the environment variables"
    " JAX_..., or install JAX again\n"
  )
  sys.exit(2)
