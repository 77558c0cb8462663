"""Notices SIGTERM, so that a run can save and stop."""

import signal
import threading
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):  # noqa: N818 - nothing has gone wrong
  """SIGTERM came while nothing was left to save."""


class Preemption:
  """Notices SIGTERM, so that a run can save and stop in good order.

  Alone, this catches the signal itself while it is entered, from the main
  thread only: elsewhere Python allows no handler and the signal keeps its
  effect. With several processes JAX catches it and lets all of them agree on
  one step. Ctrl-C is left alone.

  Attributes:
    moment: how many times `reached` was asked.

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
    # A handler of ours would displace the one of JAX that tells the others.
    if is_main and jax.process_count() == 1:
      self._previous = signal.signal(signal.SIGTERM, self._note)
      self._is_installed = True
    return self

  def __exit__(self, *error: object) -> None:
    """Puts the handler back that was there before."""
    if self._is_installed:
      # None stands for a handler that was not installed from Python.
      signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)
      self._is_installed = False

  def _note(self, number: int, frame: Any) -> None:
    """Remembers the signal; raises nothing, so a save under way goes on."""
    del number, frame
    self._is_reached = True

  def reached(self) -> bool:
    """Returns whether to stop now; once True, it stays so.

    With several processes, all must ask at the same moments of their work: the
    answer comes at the same one in each.
    """
    # JAX wants numbers that rise by one: it waits for the largest, plus one.
    self.moment += 1
    if not self._is_reached and jax.process_count() > 1:
      try:
        self._is_reached = multihost_utils.reached_preemption_sync_point(
          self.moment
        )
      except RuntimeError:  # the service is switched off: no one will tell
        return False
    return self._is_reached

  def check(self) -> None:
    """Raises Stopped where `reached`: for long work outside the steps."""
    if self.reached():
      raise Stopped
