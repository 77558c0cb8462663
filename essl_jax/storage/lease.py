"""Leases a folder of a bucket to one program, since buckets have no locks.

The holder rewrites `.lease-N` every few seconds. N only grows, and a lease is
created only if it does not exist (GCS and S3 both check this precondition), so
only one of several programs gets it.
"""

from collections.abc import Iterator
import contextlib
import functools
import json
import os
import pathlib
import re
import socket
import sys
import threading
import time
from typing import Any
import uuid

from essl_jax.errors import UsageError, describe_trouble
from essl_jax.storage import places

BEAT_SECONDS = 15.0
LEASE_SECONDS = 60.0  # a program without a beat for so long counts as dead
PATTERN = re.compile(r"\.lease-([1-9]\d*)")


@contextlib.contextmanager
def alone(folder: places.Path, refusal: str) -> Iterator[bool]:
  """Holds a folder of a bucket for this program.

  If the holder died without freeing the lease, this takes over after
  `LEASE_SECONDS`, or at once if the holder ran on this machine, and prints a
  line. A holder that was only suspended notices at its next beat and exits.

  Args:
    folder: in a bucket.
    refusal: the message if another program holds it.

  Yields:
    True, as `lock.alone` does.

  Raises:
    UsageError: another program holds it.
    OSError: the lease cannot be written; other errors of the network too.
  """
  number = take(folder, refusal)
  done = threading.Event()
  thread = threading.Thread(
    target=_keep, args=(folder, number, done), daemon=True
  )
  thread.start()
  is_in_reach = True
  try:
    yield True
  except BaseException as error:
    is_in_reach = not describe_trouble(error)
    raise
  finally:
    done.set()
    thread.join()
    if is_in_reach:  # else the lease expires by itself
      with contextlib.suppress(Exception):
        write(folder, number, {"held": False})


def take(folder: places.Path, refusal: str) -> int:
  """Waits until the last lease is free; returns the number of the new one."""
  while True:
    there = numbers(folder)
    last = there[-1] if there else 0
    if last:
      _wait(folder, last, refusal)
    if _make(folder, last + 1):
      for number in there:
        places.remove(folder / f".lease-{number}")
      return last + 1


def _make(folder: places.Path, number: int) -> bool:
  """Makes a lease; returns False if another program was faster."""
  own = holder() | {"made": uuid.uuid4().hex}
  path = os.fspath(folder / f".lease-{number}")
  try:
    places.client(path).pipe_file(path, json.dumps(own).encode(), mode="create")
  except FileExistsError:
    # If the reply to a first request was lost, the retry finds our own lease.
    if _read(folder, number) != own:
      return False
  if numbers(folder)[-1] == number:
    return True
  # Others have taken and freed this number since we looked, and moved on.
  places.remove(path)
  return False


def _wait(folder: places.Path, number: int, refusal: str) -> None:
  """Returns once a lease is free; raises UsageError if its holder is alive."""
  begun, content = time.monotonic(), _read(folder, number)
  if not content.get("held", True):
    return
  who = f"process {content.get('process')} on {content.get('host')}"
  if content.get("machine") == machine():
    if _is_alive(content.get("process"), content.get("started")):
      raise UsageError(f"{refusal} ({who})")
    print(f"{folder} was held by {who}, which has died: taking over")
    return
  print(f"{folder} is held by {who}: waiting to see whether it is alive")
  while time.monotonic() - begun < LEASE_SECONDS:
    time.sleep(min(1.0, LEASE_SECONDS / 10))
    now = _read(folder, number)
    if not now.get("held", True):
      return
    if now != content:
      raise UsageError(f"{refusal} ({who})")
  print(f"no sign of life from {who} for {LEASE_SECONDS:.0f} s: taking over")


def _keep(folder: places.Path, number: int, done: threading.Event) -> None:
  """Beats until the work is done; ends the program if it lost the lease."""
  beat = 0
  while not done.wait(BEAT_SECONDS):
    beat += 1
    try:
      is_lost = numbers(folder)[-1:] != [number]
      if not is_lost:
        write(folder, number, {"beat": beat})
    except Exception:  # network trouble; code that needs the bucket reports it
      continue
    if is_lost:
      print(
        f"error: another program has taken over workdir {folder}, because this"
        f" one gave no sign of life for {LEASE_SECONDS:.0f} s: leave the run"
        " to it",
        file=sys.stderr,
        flush=True,
      )
      os._exit(1)  # nothing more may be written


def numbers(folder: places.Path) -> list[int]:
  """Returns the numbers of all leases, in order."""
  found = map(PATTERN.fullmatch, places.names(folder))
  return sorted(int(x[1]) for x in found if x)


def _read(folder: places.Path, number: int) -> dict[str, Any]:
  """Reads a lease; one that was just removed counts as free."""
  path = os.fspath(folder / f".lease-{number}")
  try:
    found = json.loads(places.client(path).cat_file(path))
  except FileNotFoundError:
    return {"held": False}
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def write(folder: places.Path, number: int, extra: dict[str, Any]) -> None:
  """Writes a lease: its holder and the extra entries."""
  content = json.dumps(holder() | extra).encode()
  places.replace_bytes(folder / f".lease-{number}", content)


def holder() -> dict[str, Any]:
  """Describes this process for a lease."""
  return {
    "host": socket.gethostname(),
    "machine": machine(),
    "process": os.getpid(),
    "started": started(os.getpid()),
  }


@functools.cache
def machine() -> str:
  """Identifies the boot and PID namespace: equal only if PIDs are shared."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text("utf-8")
    return f"{boot.strip()} {os.stat('/proc/self/ns/pid').st_ino}"
  except OSError:
    return f"unknown {uuid.uuid4().hex}"


def _is_alive(process: Any, begun: Any) -> bool:
  """Whether a process of this machine still runs.

  The start time guards against a reused PID: restarted containers use the same
  few PIDs each time.
  """
  try:
    os.kill(int(process), 0)
  except ProcessLookupError:
    return False
  except (PermissionError, OverflowError, TypeError, ValueError):
    pass
  now = started(process)
  return None in (begun, now) or begun == now


def started(process: Any) -> int | None:
  """Returns when a process started, in ticks of the machine's clock.

  0 for a zombie (ended, but not yet reaped by its parent); None if the system
  does not tell.
  """
  try:
    text = pathlib.Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in ("Z", "X") else int(fields[19])
  except (OSError, ValueError, IndexError):
    return None
