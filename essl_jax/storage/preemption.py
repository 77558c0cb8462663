"""Notices SIGTERM, so that a run can save and stop; ends one that does not."""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading
from typing import Any, Self

from absl import logging
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


_GRACE_SECONDS = 8.0


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
  """Ends the program where signals alone do not.

  It ends 8 s after the first Ctrl-C or the second SIGTERM, and at the next
  signal: whatever the main thread waits for, and though Python drops the
  KeyboardInterrupt that arises where no exception can pass, as in JAX's
  callback of the garbage collector. From the main thread only.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  hook = sys.unraisablehook

  def notice_dropped(dropped: Any) -> None:
    if issubclass(dropped.exc_type, KeyboardInterrupt):
      _end(signal.SIGINT)
    # Such as those of tasks that TensorStore goes on with after a failed save.
    if logging.get_verbosity() >= logging.INFO:
      hook(dropped)

  # C code writes each signal there, also while no Python code can run.
  before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
  os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
  sys.unraisablehook = notice_dropped
  watch = threading.Thread(target=_watch, args=(reading,), daemon=True)
  watch.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    sys.unraisablehook = hook
    os.close(writing)
    watch.join()


def _watch(reading: int) -> None:
  """Counts signals until the other end of the pipe is closed."""
  is_noted, ending = False, None
  while number := os.read(reading, 1):
    if number[0] not in (signal.SIGINT, signal.SIGTERM):
      continue
    if number[0] == signal.SIGTERM and not is_noted:
      is_noted = True  # by `Preemption`: the run saves and stops
    elif ending is None:
      ending = threading.Timer(_GRACE_SECONDS, _end, [number[0]])
      ending.daemon = True
      ending.start()
    else:
      _end(number[0])
  os.close(reading)
  if ending:
    ending.cancel()


def _end(number: int) -> None:
  """Ends the program; the main thread may hold the locks of all streams."""
  name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
  if os.isatty(1):
    os.write(1, b"\x1b[?25h")  # the cursor, which a progress bar hides
  with contextlib.suppress(OSError):
    os.write(2, f"{farewell(name)}\n".encode())
  os._exit(128 + number)


def farewell(name: str) -> str:
  """What a run says that a signal has ended."""
  return (
    f"stopped by {name}: the same command goes on from the last checkpoint, or"
    " begins again without one"
  )
