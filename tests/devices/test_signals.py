"""Signals end a program whatever it waits for; without JAX here."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[2]
# C code that never returns to Python: it waits for a lock that it holds.
STUCK = """
  lock, c = ctypes.create_string_buffer(128), ctypes.CDLL(None)
  c.pthread_mutex_lock(lock)
  print("ready", flush=True)
  c.pthread_mutex_lock(lock)
"""
# Python drops exceptions in this kind of callback; JAX has one.
DROPPED = """
  def interrupt(phase, info):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
      pass

  print("ready", flush=True)
  gc.callbacks.append(interrupt)
  gc.collect()
  time.sleep(60)
"""
SWALLOWED = """
  print("ready", flush=True)
  while True:
    try:
      time.sleep(60)
    except BaseException:
      pass
"""


@contextlib.contextmanager
def start(
  code: str, grace_seconds: float = 0.3
) -> Iterator[subprocess.Popen[str]]:
  """Starts a program that notes SIGTERM as `Preemption` does."""
  head = f"""
    import ctypes, gc, os, signal, sys, time
    from essl_jax.devices import signals
    noted = lambda *_: os.write(1, b"noted\\n")
    signal.signal(signal.SIGTERM, noted)
    with signals.ended_by_signals({grace_seconds}):
  """
  body = textwrap.indent(textwrap.dedent(code), "  ")
  with subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(head) + body],
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      yield process
    finally:
      process.kill()


def send(process: subprocess.Popen[str], kind: signal.Signals) -> None:
  """Sends a signal and waits for its arrival: two at once would merge."""
  time.sleep(0.1)  # lets the program start to wait
  process.send_signal(kind)
  status = pathlib.Path(f"/proc/{process.pid}/status")
  with contextlib.suppress(FileNotFoundError):  # it has ended
    for _ in range(100):
      pending = status.read_text().partition("ShdPnd:")[2].split()
      if not int(pending[0], 16) >> (kind - 1) & 1:
        return
      time.sleep(0.1)


@pytest.mark.parametrize(
  ("code", "kinds", "end"),
  [
    (STUCK, ["SIGTERM", "SIGTERM"], 143),
    (STUCK, ["SIGINT"], 130),
    (SWALLOWED, ["SIGTERM", "SIGINT"], 130),
    (DROPPED, [], 130),
  ],
)
def test_a_signal_ends_what_does_not_stop(code, kinds, end):
  """The first Ctrl-C or second SIGTERM ends it after the grace, in one line."""
  with start(code) as process:
    assert process.stdout.readline() == "ready\n"
    for kind in kinds:
      send(process, signal.Signals[kind])
    _, errors = process.communicate(timeout=10)
  assert process.returncode == end
  name = {143: "SIGTERM", 130: "Ctrl-C"}[end]
  (line,) = errors.splitlines()
  assert line.startswith(f"stopped by {name}: the same command resumes")


def test_a_second_ctrl_c_ends_at_once():
  """It also does so during a long grace period."""
  with start(SWALLOWED, grace_seconds=60) as process:
    assert process.stdout.readline() == "ready\n"
    for _ in range(2):
      send(process, signal.SIGINT)
    process.communicate(timeout=5)
  assert process.returncode == 130


def test_one_sigterm_and_what_ends_in_time_are_left_alone():
  """A run that saves and stops keeps its own exit code and its threads."""
  code = """
    print("ready", flush=True)
    time.sleep(0.5)
    try:
      signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
      sys.exit(7)
  """
  with start(code, grace_seconds=5) as process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=10)
  assert (process.returncode, printed, errors) == (7, "noted\n", "")


def test_ctrl_c_while_the_program_is_imported_leaves_no_trace(tmp_path):
  """JAX's import takes seconds; a fake module interrupts it early."""
  (tmp_path / "absl").mkdir()
  interrupt = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
  (tmp_path / "absl" / "__init__.py").write_text(interrupt)
  path = os.pathsep.join([str(tmp_path), str(ROOT)])
  done = subprocess.run(
    [sys.executable, "-m", "essl_jax.main"],
    env=os.environ | {"PYTHONPATH": path},
    capture_output=True,
    timeout=60,
    check=False,
  )
  assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
