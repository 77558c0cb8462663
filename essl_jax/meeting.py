"""How the processes of a run first meet, at the coordinator's port."""

from collections.abc import Iterable, Mapping
import contextlib
import json
import socket
import time
from typing import Any

from essl_jax import launcher
from essl_jax.errors import UsageError
from essl_jax.texts import some

_HELLO = "essl_jax"  # what a connection begins with
_HELLO_SECONDS = 10.0
_RETRY_SECONDS = 0.2
_SHOWN = 8  # absent processes that a line names


def gather(place: launcher.Place, timeout: float) -> dict[int, socket.socket]:
  """Connects process 0 with all others.

  Args:
    place: of this process.
    timeout: seconds until it gives up.

  Returns:
    A connection by process.

  Raises:
    UsageError: they did not come, or do not belong together.
  """
  deadline = time.monotonic() + timeout
  if place.process_id:
    return {0: _call(place, deadline, timeout)}
  return _welcome(place, deadline, timeout)


def _call(
  place: launcher.Place, deadline: float, timeout: float
) -> socket.socket:
  """Connects to process 0."""
  address = launcher.split_address(place.coordinator)
  hello = {_HELLO: place.process_id, "of": place.num_processes}
  problem: object = "no answer"
  while (left := deadline - time.monotonic()) > 0:
    try:
      peer = socket.create_connection(address, timeout=min(left, 5.0))
    except OSError as error:
      problem = error
      time.sleep(min(left, _RETRY_SECONDS))
      continue
    try:
      peer.settimeout(left)
      peer.sendall((json.dumps(hello) + "\n").encode())
      answer = _read_line(peer)
    except TimeoutError:
      problem = "it still waits for others"
    except OSError as error:  # process 0 has ended, perhaps to come again
      problem = error
    else:
      if _HELLO in answer:
        peer.settimeout(None)
        return peer
      if "failed" in answer:
        raise UsageError(answer["failed"])
      problem = "another program answers there"
    peer.close()
    time.sleep(_RETRY_SECONDS)
  raise UsageError(
    f"process {place.process_id} could not join process 0 at"
    f" {place.coordinator} within {timeout:g} s ({problem}): start"
    " process 0 there, open the port to the other hosts,"
    f" {launcher.hint(place)}"
  )


def _read_line(peer: socket.socket) -> dict[str, Any]:
  """Reads one line, no byte more; empty if it is not one of ours."""
  text = b""
  while not text.endswith(b"\n"):
    byte = peer.recv(1)
    if not byte:
      raise ConnectionError("the connection was closed")
    text += byte
    if len(text) > 4096:
      return {}
  try:
    message = json.loads(text)
  except ValueError:
    return {}
  return message if isinstance(message, dict) else {}


def _welcome(
  place: launcher.Place, deadline: float, timeout: float
) -> dict[int, socket.socket]:
  """Waits for all others at the coordinator's port, then frees it for JAX."""
  peers: dict[int, socket.socket] = {}
  with _serve(place) as server:
    while len(_drop_closed(peers)) < place.num_processes - 1:
      server.settimeout(max(deadline - time.monotonic(), 0.01))
      try:
        peer, (host, *_) = server.accept()
      except TimeoutError:
        problem = _absent(place, peers, timeout)
        answer(peers.values(), {"failed": problem})
        raise UsageError(problem) from None
      hello = _hear(peer)
      if _HELLO not in hello:
        peer.close()
        continue
      if problem := _refuse(place, hello, _drop_closed(peers), host):
        answer([*peers.values(), peer], {"failed": problem})
        raise UsageError(problem)
      peers[hello[_HELLO]] = peer
  answer(peers.values(), {_HELLO: 0})
  return peers


def _serve(place: launcher.Place) -> socket.socket:
  """Listens at the coordinator's port on all addresses of this host."""
  _, port = launcher.split_address(place.coordinator)
  is_dual = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if is_dual else socket.AF_INET
  try:
    return socket.create_server(
      ("", port), family=family, dualstack_ipv6=is_dual, backlog=1024
    )
  except OSError as error:
    raise UsageError(
      f"process 0 cannot listen at port {port} of --coordinator: {error}: end"
      " the program that uses it or choose another port"
    ) from error


def _hear(peer: socket.socket) -> dict[str, Any]:
  """Reads what a connection begins with; empty if that is nothing of ours."""
  peer.settimeout(_HELLO_SECONDS)
  try:
    hello = _read_line(peer)
    peer.settimeout(None)
  except OSError:
    return {}
  return hello


def _refuse(
  place: launcher.Place,
  hello: Mapping[str, Any],
  peers: Mapping[int, socket.socket],
  host: str,
) -> str:
  """Says why a process does not belong to the others; empty if it does."""
  index, count = hello[_HELLO], hello["of"]
  if count != place.num_processes:
    return (
      f"process {index} was started as one of {count}, process 0 as one of"
      f" {place.num_processes}: give all the same --num_processes"
    )
  if index == 0 or index in peers:
    return (
      f"two processes call themselves process {index}, the second at {host}:"
      " give each its own --process_id"
    )
  return ""


def _drop_closed(peers: dict[int, socket.socket]) -> dict[int, socket.socket]:
  """Forgets who was killed before all had come, and may come again."""
  for index in [i for i, peer in peers.items() if _is_closed(peer)]:
    peers.pop(index).close()
  return peers


def _is_closed(peer: socket.socket) -> bool:
  """Whether the other side is gone."""
  try:
    return peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
  except BlockingIOError:
    return False
  except OSError:
    return True


def _absent(
  place: launcher.Place, peers: Mapping[int, socket.socket], timeout: float
) -> str:
  """Says which processes have not come."""
  absent = [str(i) for i in range(1, place.num_processes) if i not in peers]
  return (
    f"process 0 of {place.num_processes} has waited {timeout:g} s in vain for"
    f" process {some(absent, _SHOWN)} at {place.coordinator}: start them, open"
    f" the port to them, {launcher.hint(place)}"
  )


def answer(peers: Iterable[socket.socket], message: Mapping[str, Any]) -> None:
  """Sends a line of JSON to each that still listens.

  Args:
    peers: connections.
    message: what JSON can hold.
  """
  for peer in peers:
    # Whoever reads from it notices that it is gone.
    with contextlib.suppress(OSError):
      peer.sendall((json.dumps(message) + "\n").encode())


def keep_alive(peer: socket.socket) -> None:
  """Lets a connection break within a minute if the other host vanishes.

  Args:
    peer: a connection.
  """
  peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in (
    ("TCP_KEEPIDLE", 20),
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 4),
  ):
    if hasattr(socket, name):  # not on every system
      peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
