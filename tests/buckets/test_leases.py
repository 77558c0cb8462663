"""Leases: one program at a time in a folder of a bucket."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from essl_jax.errors import UsageError
from essl_jax.storage import claim, lease, places


def test_one_program_at_a_time(workdir):
  with claim.hold(workdir, lambda _: None):
    assert places.names(workdir) == [".lease-1"]
    with (
      pytest.raises(UsageError, match=r"is using workdir .*process \d+ on"),
      claim.hold(workdir, lambda _: None),
    ):
      raise AssertionError
  with claim.hold(workdir, lambda _: None):
    assert places.names(workdir) == [".lease-2"]


def test_the_dead_are_taken_over_at_once(workdir, monkeypatch, capsys):
  """On this machine, where it is known that they are dead."""
  dead = subprocess.Popen([sys.executable, "-c", ""])
  dead.wait()
  holder = lease.holder() | {"process": dead.pid}
  with monkeypatch.context() as patch:
    patch.setattr(lease, "holder", lambda: holder)
    assert lease.take(workdir, "") == 1
  with claim.hold(workdir, lambda _: None):
    pass
  assert "which has died: taking over" in capsys.readouterr().out


def test_a_new_process_with_the_number_of_a_dead_one(workdir, monkeypatch):
  """As in a restarted container, where every program has process number 1."""
  before = lease.holder()
  with monkeypatch.context() as patch:
    patch.setattr(lease, "holder", lambda: before | {"started": 1})
    assert lease.take(workdir, "") == 1
  assert lease.take(workdir, "") == 2
  with pytest.raises(UsageError, match="at work"):
    lease.take(workdir, "at work")


def test_the_dead_whose_parents_do_not_care(workdir, monkeypatch):
  with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as dead:
    holder = lease.holder()
    holder |= {"process": dead.pid, "started": lease.started(dead.pid)}
    with monkeypatch.context() as patch:
      patch.setattr(lease, "holder", lambda: holder)
      assert lease.take(workdir, "") == 1
    with pytest.raises(UsageError, match="at work"):
      lease.take(workdir, "at work")
    os.kill(dead.pid, signal.SIGKILL)
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    assert lease.take(workdir, "") == 2


def test_a_lost_answer_is_no_other_program(workdir, monkeypatch):
  """The request is sent again, and then finds what it has made."""
  client = places.client(workdir)
  original = client.pipe_file

  def twice(*arguments, **options):
    original(*arguments, **options)
    original(*arguments, **options)

  monkeypatch.setattr(client, "pipe_file", twice)
  with claim.hold(workdir, lambda _: None):
    assert places.names(workdir) == [".lease-1"]


def test_one_that_slept_while_others_held_it(workdir, monkeypatch):
  """It writes a lease under a number that was freed but is not the last."""
  for _ in range(3):
    with claim.hold(workdir, lambda _: None):
      pass
  assert lease.take(workdir, "") == 4
  known, numbers = [[1]], lease.numbers
  monkeypatch.setattr(
    lease, "numbers", lambda x: known.pop() if known else numbers(x)
  )
  with pytest.raises(UsageError, match="at work"):
    lease.take(workdir, "at work")
  assert places.names(workdir) == [".lease-4"]


@pytest.mark.parametrize("is_alive", [False, True])
def test_those_of_other_machines_are_waited_for(
  is_alive, workdir, monkeypatch, capsys
):
  """A heartbeat shows that they live; a long silence that they are dead."""
  monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
  with monkeypatch.context() as patch:
    patch.setattr(lease, "machine", lambda: "another")
    assert lease.take(workdir, "") == 1
  beat = {"beat": 1, "machine": "another"}
  beats = threading.Timer(0.3, lease.write, (workdir, 1, beat))
  if is_alive:
    beats.start()
    with pytest.raises(UsageError, match="choose another --workdir"):
      claim.hold(workdir, lambda _: None).__enter__()
    beats.join()
    return
  begun = time.monotonic()
  with claim.hold(workdir, lambda _: None):
    assert time.monotonic() - begun > 1
  assert "no sign of life from process" in capsys.readouterr().out


def test_who_was_taken_over_ends_at_once(workdir):
  """As a program that was suspended and wakes up."""
  program = f"""
import time
from essl_jax.storage import lease, places
lease.BEAT_SECONDS = 0.2
with lease.alone(places.locate("{workdir}"), ""):
  print("held", flush=True)
  time.sleep(60)
"""
  with subprocess.Popen(
    [sys.executable, "-c", program],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == "held\n"
    places.replace_text(workdir / ".lease-2", "{}")
    _, errors = process.communicate(timeout=20)
  assert process.returncode == 1
  (line,) = errors.splitlines()
  assert line.startswith("error: another program has taken over workdir gs://")
