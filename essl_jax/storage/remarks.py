"""Filters messages that Orbax and its libraries print besides raising."""

import inspect
import logging as python_logging
import os
import sys
from typing import Any

from absl import logging

from essl_jax.errors import describe_trouble


def hold_back() -> None:
  """Hides these messages, and stack traces of errors that are raised anyway.

  `--verbosity=0` shows everything.
  """
  for name in ("absl", "asyncio"):
    python_logging.getLogger(name).addFilter(_is_for_the_user)
  show = sys.unraisablehook
  if getattr(show, "holds_back", False):
    return

  def hook(echo: Any) -> None:
    # Orbax reads arrays in parallel. If one is damaged, the other reads end
    # later, each with a stack trace.
    is_closed = "Event loop is closed" in str(echo.exc_value)
    if not is_closed and not inspect.iscoroutine(echo.object):
      show(echo)

  hook.holds_back = True  # type: ignore[attr-defined]
  sys.unraisablehook = hook


def _is_for_the_user(record: python_logging.LogRecord) -> bool:
  if logging.get_verbosity() >= logging.INFO:
    return True
  error = record.exc_info[1] if record.exc_info else None
  if f"{os.sep}orbax{os.sep}" in record.pathname:
    # Orbax does not need the descriptions of checkpoints.
    of_descriptions = f"{os.sep}metadata{os.sep}" in record.pathname
    is_error = record.levelno >= python_logging.ERROR
    return is_error and error is None and not of_descriptions
  # From tasks that Orbax abandoned when another failed.
  is_given_up = "exception was never retrieved" in record.getMessage()
  return record.name != "asyncio" or not (
    is_given_up or describe_trouble(error)
  )
