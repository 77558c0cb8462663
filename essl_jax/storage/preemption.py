"""Notices SIGTERM, so that a run can save and stop."""

import signal
import threading
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):  # noqa: N818 - not an error
  """SIGTERM came when nothing was left to save."""


class Preemption:
  """Notices SIGTERM, so that a run can save and stop cleanly.

  In a single process, this class catches the signal while its context is open,
  from the main thread only: in other threads Python allows no handler, and the
  signal keeps its effect. With several processes, JAX catches the signal and
  makes them agree on one step. Ctrl-C is left alone.

  Attributes:
    moment: number of calls of `reached`.

  Example:
    with Preemption() as preemption:
      for step in range(start, end):
        ...
        if preemption.reached():
          break
  """

  def __init__(self):
    self._is_reached = False
    self._is_installed = False
    self._previous: Any = None
    self.moment = 0

  def __enter__(self) -> Self:
    is_main = threading.current_thread() is threading.main_thread()
    # Our handler would replace JAX's, which tells the other processes.
    if is_main and jax.process_count() == 1:
      self._previous = signal.signal(signal.SIGTERM, self._note)
      self._is_installed = True
    return self

  def __exit__(self, *error: object) -> None:
    """Restores the previous handler."""
    if self._is_installed:
      # None means a handler that was not installed from Python.
      signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)
      self._is_installed = False

  def _note(self, number: int, frame: Any) -> None:
    """Remembers the signal; raises nothing, so a running save continues."""
    del number, frame
    self._is_reached = True

  def reached(self) -> bool:
    """Returns whether to stop now; once True, it stays True.

    With several processes, all must call this at the same points of their work;
    the answer turns True at the same call in each.
    """
    # JAX needs numbers that rise by one: it waits for the largest plus one.
    self.moment += 1
    if not self._is_reached and jax.process_count() > 1:
      try:
        self._is_reached = multihost_utils.reached_preemption_sync_point(
          self.moment
        )
      except RuntimeError:  # the service is switched off: no signal will come
        return False
    return self._is_reached

  def check(self) -> None:
    """Raises Stopped if `reached`, for long work outside the steps."""
    if self.reached():
      raise Stopped
