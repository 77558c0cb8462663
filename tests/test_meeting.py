"""Processes that look for each other, here threads of one process."""

import concurrent.futures
import os
import socket
import subprocess
import sys
import textwrap
import time

import process_helpers
import program_helpers
import pytest

from essl_jax import cluster, launcher, meeting
from essl_jax.errors import UsageError


def meet(*places, timeout=5.0):
  """What each place gets: its connections, or what is wrong."""
  address = process_helpers.free_address()

  def one(index, count, to=address):
    try:
      return meeting.gather(launcher.Place(to, count, index), timeout)
    except UsageError as error:
      return str(error)

  with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
    return [x.result() for x in [pool.submit(one, *x) for x in places]]


def say(address, text, seconds=0.0):
  """Says something at a port once somebody listens there, and hangs up."""
  deadline = time.monotonic() + 5
  while time.monotonic() < deadline:
    try:
      with socket.create_connection(launcher.split_address(address)) as peer:
        peer.sendall(text)
        time.sleep(seconds)
      break
    except OSError:
      time.sleep(0.05)


def close(*all_peers):
  for peers in all_peers:
    for peer in peers.values():
      peer.close()


def test_all_meet_and_the_port_is_free_again():
  address = process_helpers.free_address()
  found = meet((2, 3, address), (1, 3, address), (0, 3, address))
  assert [sorted(peers) for peers in found] == [[0], [0], [1, 2]]
  found[2][1].sendall(b"x")
  assert found[1][0].recv(1) == b"x"
  # JAX listens there next, while the connections live on.
  _, port = launcher.split_address(address)
  socket.create_server(("", port)).close()
  close(*found)


def test_another_number_of_processes_is_refused():
  for told in meet((0, 2), (1, 3)):
    assert "process 1 was started as one of 3, process 0 as one of 2" in told


def test_two_of_the_same_number_are_refused():
  told = meet((0, 3), (1, 3), (1, 3))
  assert all("call themselves process 1" in text for text in told)


def test_who_does_not_come_is_named():
  told = meet((0, 4), (2, 4), timeout=1.0)
  assert "waited 1 s in vain for process 1, 3 at localhost" in told[0]
  assert "in vain" in told[1] or "still waits for others" in told[1]


def test_no_process_0():
  (told,) = meet((1, 2), timeout=0.6)
  assert "could not join process 0 at localhost" in told
  assert "refused" in told and "check --coordinator" in told


def test_a_port_in_use():
  with socket.create_server(("", 0)) as other:
    address = f"localhost:{other.getsockname()[1]}"
    (told,) = meet((0, 2, address))
  assert "process 0 cannot listen at port" in told


def test_strangers_are_ignored():
  address = process_helpers.free_address()
  with concurrent.futures.ThreadPoolExecutor() as pool:
    both = pool.submit(meet, (0, 2, address))
    say(address, b"GET / HTTP/1.1\r\n\r\n")
    place = launcher.Place(address, 2, 1)
    peers = meeting.gather(place, 5.0)
    (found,) = both.result()
  assert sorted(found) == [1]
  close(found, peers)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_process_may_come_again_before_all_are_there(order):
  address = process_helpers.free_address()
  with concurrent.futures.ThreadPoolExecutor() as pool:
    waiting = pool.submit(meet, (0, 3, address))
    say(address, b'{"essl_jax": 1, "of": 3}\n', 0.2)  # heard, and killed
    first = pool.submit(meet, (order[0], 3, address))
    time.sleep(0.3)  # process 1 has been heard twice, or both once
    second = pool.submit(meet, (order[1], 3, address))
    (found,) = waiting.result()
    others = dict(zip(order, first.result() + second.result(), strict=True))
  assert sorted(found) == [1, 2], found
  found[1].sendall(b"x")
  assert others[1][0].recv(1) == b"x"
  close(found, *others.values())


def test_who_came_and_was_killed_is_named_absent():
  address = process_helpers.free_address()
  with concurrent.futures.ThreadPoolExecutor() as pool:
    waiting = pool.submit(meet, (0, 3, address), timeout=2.0)
    say(address, b'{"essl_jax": 1, "of": 3}\n', 0.2)
    meet((2, 3, address), timeout=2.0)
    (told,) = waiting.result()
  assert "in vain for process 1 at localhost" in told


def test_differences_are_named_with_their_processes():
  assert cluster.describe_differences([{"seed": "0"}] * 3) == ""
  text = cluster.describe_differences(
    [{"seed": "0", "k": "1"}, {"seed": "0"}, {"seed": "4", "k": "1"}]
  )
  assert "seed is 0 in process 0 and 1 and 4 in process 2" not in text
  assert "seed is 0 in process 0, 1 and 4 in process 2" in text
  assert "k is 1 in process 0, 2 and absent in process 1" in text
  many = cluster.describe_differences([{"x": str(i % 2)} for i in range(16)])
  assert "0 in process 0, 2, 4 and 5 more and 1 in process 1" in many


ONE_OF_TWO = """
  import os, signal, sys, time
  from essl_jax import cluster, launcher
  from essl_jax.errors import UsageError

  address, index, how, victim = sys.argv[1:]
  place = launcher.Place(address, 2, int(index))
  with cluster.Cluster(place, 60) as both:
    assert both.exchange(index) == ["0", "1"]
    if index == victim and how == "is killed":
      os.kill(os.getpid(), signal.SIGKILL)
    if index == victim and how == "refuses":
      raise UsageError("no such data")
    if how != "leaves":
      time.sleep(100)  # as in a collective that the other never joins
"""


@pytest.mark.parametrize(
  ("how", "victim", "statuses", "says"),
  [
    ("leaves", 0, [0, 0], ["", ""]),
    ("is killed", 1, [1, -9], ["process 1: ended without a word", ""]),
    ("is killed", 0, [-9, 1], ["", "process 0: ended without a word"]),
    ("refuses", 1, [2, 2], ["process 1: no such data", "no such data"]),
  ],
)
def test_all_end_together(how, victim, statuses, says):
  address = process_helpers.free_address()
  code = textwrap.dedent(ONE_OF_TWO)
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", code, address, str(index), how, str(victim)],
      env=os.environ | {"PYTHONPATH": str(program_helpers.ROOT)},
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  try:
    errors = [process.communicate(timeout=60)[1] for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == statuses, errors
  for error, expected in zip(errors, says, strict=True):
    assert error.count("\n") == bool(expected)
    assert error.startswith(f"error: {expected}" if expected else "")
