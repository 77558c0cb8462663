"""Processes that train together: they meet, agree, and end together.

JAX ends a process that waits in vain by an abort with a stack trace, and one
that is left alone in a collective hangs. So the processes first meet over
connections of their own, at the coordinator's port before JAX uses it, and
keep them: a process that fails says so, one that dies closes its connection,
and either ends all at once with one line.
"""

from collections.abc import Mapping
import json
import os
import queue
import socket
import sys
import threading
import time
import traceback
from typing import Any, NoReturn, Self

import jax

from essl_jax import launcher, meeting, texts
from essl_jax.errors import UsageError

_BLAME_SECONDS = 5.0  # a collective may fail before its cause is known


class Cluster:
  """The processes of one run, from the first meeting to the end.

  Example:
    with Cluster(place, timeout=300) as cluster:
      cluster.check_equal({"workdir": "runs/a"})
      cluster.start_jax()
      train()
  """

  def __init__(self, place: launcher.Place, timeout: float):
    """Prepares to meet.

    Args:
      place: of this process, from `launcher.find`.
      timeout: seconds to wait for the others.
    """
    self.place = place
    self._timeout = timeout
    # Of process 0: to all others. Of the others: to process 0.
    self._peers: dict[int, socket.socket] = {}
    self._received: dict[int, queue.Queue] = {}
    self._gone: set[int] = set()  # in good order
    self._has_jax = False
    self._ending = threading.Lock()

  def __enter__(self) -> Self:
    """Waits until all processes are there; or ends the program."""
    try:
      self._peers = meeting.gather(self.place, self._timeout)
    except UsageError as error:
      self._end(str(error), code=2)
    for index, peer in self._peers.items():
      self._received[index] = queue.Queue()
      meeting.keep_alive(peer)
      threading.Thread(
        target=self._listen, args=(index, peer), daemon=True
      ).start()
    return self

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    """Leaves together with the others; after an error, ends all of them.

    An error does not return: JAX's end waits for processes that hang.
    """
    if error is None or (isinstance(error, SystemExit) and not error.code):
      self._leave()
      return
    if isinstance(error, UsageError | FloatingPointError):
      self._end(str(error), code=2 if isinstance(error, UsageError) else 1)
    if isinstance(error, KeyboardInterrupt):
      self._end("stopped by Ctrl-C", code=130)
    # What breaks a collective is told by the process that died of it.
    time.sleep(_BLAME_SECONDS)
    traceback.print_exception(kind, error, trace)
    self._end(texts.first_line(error, with_type=True), code=1)

  def start_jax(self) -> None:
    """Starts `jax.distributed`; nothing of JAX may have used a device."""
    ids = self.place.local_device_ids
    jax.distributed.initialize(
      self.place.coordinator,
      self.place.num_processes,
      self.place.process_id,
      local_device_ids=None if ids is None else list(ids),
      cluster_detection_method="deactivate",  # done, by `launcher`
      initialization_timeout=max(int(self._timeout), 1),
    )
    self._has_jax = True
    if jax.default_backend() == "cpu":
      # Only process 0 finds its programs there; Gloo waits 30 s for the rest.
      jax.config.update("jax_enable_compilation_cache", False)

  def exchange(self, value: Any) -> list[Any]:
    """Gives everybody the values of all, without a device.

    Args:
      value: what JSON can hold.

    Returns:
      The values of all processes in their order.
    """
    if self.place.process_id:
      self._send(0, {"value": value})
      return self._receive(0)
    values = [value] + [self._receive(index) for index in sorted(self._peers)]
    for index in self._peers:
      self._send(index, {"value": values})
    return values

  def check_equal(self, fields: Mapping[str, Any]) -> None:
    """Refuses processes that were started differently.

    Args:
      fields: value by name; what JSON can hold.

    Raises:
      UsageError: in all processes, naming the fields and the processes.
    """
    shown = {name: json.dumps(value) for name, value in fields.items()}
    if problem := describe_differences(self.exchange(shown)):
      raise UsageError(problem)

  def _listen(self, index: int, peer: socket.socket) -> None:
    """Takes what a process says until it is gone."""
    try:
      with peer.makefile("r", encoding="utf-8") as lines:
        for line in lines:
          message = json.loads(line)
          if "failed" in message:
            self._end(message["failed"], message["code"], message["process"])
          if "leaves" in message:
            self._gone.add(index)
            self._received[index].put(None)
          else:
            self._received[index].put(message["value"])
    except (OSError, ValueError):
      pass  # a connection that breaks is a process that is gone
    if index not in self._gone:
      self._end(
        "ended without a word: it was killed or has crashed, see its output;"
        " the same command resumes from the last checkpoint",
        1,
        index,
      )

  def _send(self, index: int, message: Mapping[str, Any]) -> None:
    meeting.answer([self._peers[index]], message)

  def _receive(self, index: int) -> Any:
    try:
      return self._received[index].get(timeout=self._timeout)
    except queue.Empty:
      raise UsageError(
        f"process {index} has not answered within {self._timeout:g} s: look at"
        " its output, or give more --join_timeout"
      ) from None

  def _end(self, text: str, code: int, process: int | None = None) -> NoReturn:
    """Tells all processes and the user what was wrong, and ends at once.

    Args:
      text: what went wrong.
      code: the exit status.
      process: where it did, if not here.
    """
    self._ending.acquire()  # for good: the first of two threads tells
    here = self.place.process_id
    cause = here if process is None else process
    for index in self._peers:
      if index not in (cause, *self._gone):
        self._send(index, {"failed": text, "code": code, "process": cause})
    where = f"process {cause}: " if cause != here else ""
    print(f"error: {where}{text}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # JAX's end would wait for the others

  def _leave(self) -> None:
    """Parts from the others once all are done, however long they take."""
    if self.place.process_id:
      self._send(0, {"leaves": True})
      self._received[0].get()
    else:
      for index in self._peers:
        self._received[index].get()
      for index in self._peers:
        self._send(index, {"leaves": True})
    if self._has_jax:
      jax.distributed.shutdown()


def describe_differences(all_shown: list[dict[str, str]]) -> str:
  """Says which fields differ between processes.

  Args:
    all_shown: by process, the JSON of every field by its name.

  Returns:
    One line; empty if all are equal.
  """
  names = list(dict.fromkeys(name for shown in all_shown for name in shown))
  parts = []
  for name in names:
    owners: dict[str, list[str]] = {}
    for index, shown in enumerate(all_shown):
      owners.setdefault(shown.get(name, "absent"), []).append(str(index))
    if len(owners) > 1:
      held = [
        f"{value} in process {texts.some(indices)}"
        for value, indices in owners.items()
      ]
      parts.append(f"{name} is {texts.some(held, separator=' and ')}")
  if not parts:
    return ""
  return (
    "the processes were started differently:"
    f" {texts.some(parts, separator='; ')}: start all of them with the same"
    " command, code and data"
  )
