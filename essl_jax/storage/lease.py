"""One program at a time in a folder of a bucket, where there are no locks.

The holder writes `.lease-N` again every few seconds. N only grows, and an
object is made only where there is none (a precondition that GCS and S3 both
check), so of several programs one gets it.
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
LEASE_SECONDS = 60.0  # without a beat, after which a program counts as dead
PATTERN = re.compile(r"\.lease-([1-9]\d*)")


@contextlib.contextmanager
def alone(folder: places.Path, refusal: str) -> Iterator[bool]:
  """Holds a folder of a bucket for this program.

  A program that died without leaving is taken over after `LEASE_SECONDS`, at
  once if it was one of this machine, and it is said. One that was only
  suspended sees that at its next beat, and ends at once.

  Args:
    folder: in a bucket.
    refusal: what to say where another program holds it.

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
    if is_in_reach:  # else it runs out by itself
      with contextlib.suppress(Exception):
        write(folder, number, {"held": False})


def take(folder: places.Path, refusal: str) -> int:
  """Waits for a lease to be free, and returns the number of the own one."""
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
  """Makes a lease; False where somebody was faster."""
  own = holder() | {"made": uuid.uuid4().hex}
  path = os.fspath(folder / f".lease-{number}")
  try:
    places.client(path).pipe_file(path, json.dumps(own).encode(), mode="create")
  except FileExistsError:
    # Where the answer to the first request was lost, the next finds our own.
    if _read(folder, number) != own:
      return False
  if numbers(folder)[-1] == number:
    return True
  # Others have held and freed this number since we looked, and gone on.
  places.remove(path)
  return False


def _wait(folder: places.Path, number: int, refusal: str) -> None:
  """Returns once a lease is free, and refuses where its holder is alive."""
  begun, content = time.monotonic(), _read(folder, number)
  if not content.get("held", True):
    return
  who = f"process {content.get('process')} on {content.get('host')}"
  if content.get("machine") == machine():
    if _is_alive(content.get("process"), content.get("started")):
      raise UsageError(f"{refusal} ({who})")
    print(f"{folder} was held by {who}, which has died: taking over")
    return
  print(f"{folder} is held by {who}: waiting for whether it still lives")
  while time.monotonic() - begun < LEASE_SECONDS:
    time.sleep(min(1.0, LEASE_SECONDS / 10))
    now = _read(folder, number)
    if not now.get("held", True):
      return
    if now != content:
      raise UsageError(f"{refusal} ({who})")
  print(f"nothing was heard of {who} for {LEASE_SECONDS:.0f} s: taking over")


def _keep(folder: places.Path, number: int, done: threading.Event) -> None:
  """Beats until the work is done; ends the program where it was taken over."""
  beat = 0
  while not done.wait(BEAT_SECONDS):
    beat += 1
    try:
      is_lost = numbers(folder)[-1:] != [number]
      if not is_lost:
        write(folder, number, {"beat": beat})
    except Exception:  # the network's; whoever needs it says so
      continue
    if is_lost:
      print(
        f"error: another program has taken over workdir {folder}, for this one"
        f" was not heard of for {LEASE_SECONDS:.0f} s: leave the run to it",
        file=sys.stderr,
        flush=True,
      )
      os._exit(1)  # nothing more may be written


def numbers(folder: places.Path) -> list[int]:
  """Those of all leases that are there, in order."""
  found = map(PATTERN.fullmatch, places.names(folder))
  return sorted(int(x[1]) for x in found if x)


def _read(folder: places.Path, number: int) -> dict[str, Any]:
  """What a lease says; one that was just removed is free."""
  path = os.fspath(folder / f".lease-{number}")
  try:
    found = json.loads(places.client(path).cat_file(path))
  except FileNotFoundError:
    return {"held": False}
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def write(folder: places.Path, number: int, extra: dict[str, Any]) -> None:
  """Writes a lease: who holds it, and what else there is to say."""
  content = json.dumps(holder() | extra).encode()
  places.replace_bytes(folder / f".lease-{number}", content)


def holder() -> dict[str, Any]:
  """This process, as a lease names it."""
  return {
    "host": socket.gethostname(),
    "machine": machine(),
    "process": os.getpid(),
    "started": started(os.getpid()),
  }


@functools.cache
def machine() -> str:
  """The same for processes that see each other's numbers, else different."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text("utf-8")
    return f"{boot.strip()} {os.stat('/proc/self/ns/pid').st_ino}"
  except OSError:
    return f"unknown {uuid.uuid4().hex}"


def _is_alive(process: Any, begun: Any) -> bool:
  """Whether a process of this machine is there, and no other of its number.

  Containers that are started again have the same few numbers each time.
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
  """When a process has begun, in ticks of the machine's clock.

  0 for one that has ended, and whose parent has not asked yet; None where the
  system does not tell.
  """
  try:
    text = pathlib.Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in ("Z", "X") else int(fields[19])
  except (OSError, ValueError, IndexError):
    return None
