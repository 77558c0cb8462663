"""Ends the program when signals alone do not end it."""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading
from typing import Any

from absl import logging


@contextlib.contextmanager
def ended_by_signals(grace_seconds: float = 8.0) -> Iterator[None]:
  """Ends the program when signals alone do not end it.

  The program ends `grace_seconds` after the first Ctrl-C or the second SIGTERM,
  or at the next signal, whatever the main thread waits for. It ends at once if
  Python drops the KeyboardInterrupt because no exception can propagate, as in
  JAX's callback for the garbage collector. Works only in the main thread.

  Args:
    grace_seconds: time to save and to shut down in order.
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
    # TensorStore's tasks, for example, continue after a failed save.
    if logging.get_verbosity() >= logging.INFO:
      hook(dropped)

  # C code writes each signal to the pipe, even while no Python code can run.
  before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
  os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
  sys.unraisablehook = notice_dropped
  watch = threading.Thread(
    target=_watch, args=(reading, grace_seconds), daemon=True
  )
  watch.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    sys.unraisablehook = hook
    os.close(writing)
    watch.join()


def _watch(reading: int, grace_seconds: float) -> None:
  """Counts signals until the other end of the pipe closes."""
  is_noted, ending = False, None
  while number := os.read(reading, 1):
    if number[0] not in (signal.SIGINT, signal.SIGTERM):
      continue
    if number[0] == signal.SIGTERM and not is_noted:
      is_noted = True  # `Preemption` handles it: the run saves and stops
    elif ending is None:
      ending = threading.Timer(grace_seconds, _end, [number[0]])
      ending.daemon = True
      ending.start()
    else:
      _end(number[0])
  os.close(reading)
  if ending:
    ending.cancel()


def _end(number: int) -> None:
  """Ends the program without streams, whose locks the main thread may hold."""
  name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
  if os.isatty(1):
    os.write(1, b"\x1b[?25h")  # shows the cursor that a progress bar hides
  with contextlib.suppress(OSError):
    os.write(2, f"{farewell(name)}\n".encode())
  os._exit(128 + number)


def farewell(name: str) -> str:
  """Returns the last message of a run that a signal ended."""
  return (
    f"stopped by {name}: the same command resumes from the last checkpoint, or"
    " starts again if there is none"
  )
