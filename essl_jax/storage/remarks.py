"""What Orbax and the libraries below it say beside what they raise."""

import inspect
import logging as python_logging
import os
import sys
from typing import Any

from absl import logging

from essl_jax.errors import describe_trouble


def hold_back() -> None:
  """Keeps their remarks, and traces of what they raise as well, from the user.

  --verbosity=0 shows all.
  """
  for name in ("absl", "asyncio"):
    python_logging.getLogger(name).addFilter(_is_for_the_user)
  show = sys.unraisablehook
  if getattr(show, "holds_back", False):
    return

  def hook(echo: Any) -> None:
    # Orbax reads arrays side by side. Where one is damaged, those under way end
    # later, each with a stack trace that nobody asked for.
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
    # Orbax can do without the descriptions of checkpoints.
    of_descriptions = f"{os.sep}metadata{os.sep}" in record.pathname
    is_error = record.levelno >= python_logging.ERROR
    return is_error and error is None and not of_descriptions
  # Of the tasks that Orbax has given up when another failed.
  is_given_up = "exception was never retrieved" in record.getMessage()
  return record.name != "asyncio" or not (
    is_given_up or describe_trouble(error)
  )
