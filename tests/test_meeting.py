"""Processes that look for each other, here threads of one process."""

import concurrent.futures
import socket
import time

import process_helpers

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
  host, port = launcher.split_address(address)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    both = pool.submit(meet, (0, 2, address))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
      try:
        with socket.create_connection((host, port)) as stranger:
          stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        break
      except OSError:
        time.sleep(0.05)
    place = launcher.Place(address, 2, 1)
    peers = meeting.gather(place, 5.0)
    (found,) = both.result()
  assert sorted(found) == [1]
  close(found, peers)


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
