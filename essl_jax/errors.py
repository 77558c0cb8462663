"""The one exception that means: what the user gave is wrong."""


class UsageError(ValueError):
  """Wrong input, told in one line: what is wrong, what is allowed, what to do.

  `python -m essl_jax.main` prints the message without a stack trace and exits
  with code 2.
  """
