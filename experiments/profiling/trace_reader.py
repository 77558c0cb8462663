"""Reads a profiler's trace: when each operation ran on one device."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
import pathlib
import re
from typing import Any, NamedTuple

from essl_jax.errors import UsageError

# The lines of a device with its streams; other lines repeat their content.
_STREAM = re.compile(r"^Stream #")
_OPS = "XLA Ops"


class Run(NamedTuple):
  """One run of an operation.

  Attributes:
    start: start in nanoseconds.
    end: end in nanoseconds.
    module: the program, such as `jit_train_step`; empty if unknown.
    op: the operation's name in the program; empty if unknown.
  """

  start: float
  end: float
  module: str
  op: str


class Shares(NamedTuple):
  """How a span of time was spent.

  Attributes:
    seconds: by program and operation; operations that run at the same time
      share it equally.
    runs: how often each ran.
    gap: seconds without any operation.
    total: seconds from first to last.
  """

  seconds: Counter[tuple[str, str]]
  runs: Counter[tuple[str, str]]
  gap: float
  total: float


def load(folder: pathlib.Path) -> Any:
  """Loads the newest trace below a folder, as `jax.profiler.ProfileData`.

  Raises:
    UsageError: there is none.
  """
  import jax

  found = sorted(
    folder.glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime
  )
  if not found:
    raise UsageError(f"there is no trace (*.xplane.pb) below {folder}")
  return jax.profiler.ProfileData.from_file(str(found[-1]))


def runs(data: Any, device: int = 0) -> list[Run]:
  """The operations that ran on one device, in the order of their starts.

  GPUs and TPUs have their own plane. On a CPU, operations are in the host's
  threads; an operation that other threads finish ends with a separate event.

  Args:
    data: `jax.profiler.ProfileData`.
    device: number of the device.

  Returns:
    The runs.
  """
  planes = list(data.planes)
  own = re.compile(rf"^/device:(GPU|TPU|CUSTOM):{device}\b")
  found: list[Run] = []
  devices = [plane for plane in planes if own.match(plane.name)]
  for plane in devices:
    lines = list(plane.lines)
    streams = [x for x in lines if _STREAM.match(x.name)]
    for line in streams or [x for x in lines if x.name == _OPS]:
      found += _device_runs(line)
  if not devices:
    hosts = [plane for plane in planes if plane.name == "/host:CPU"]
    found += [run for plane in hosts for run in _host_runs(plane, device)]
  return sorted(found)


def _device_runs(line: Any) -> Iterator[Run]:
  for event in line.events:
    stats = dict(event.stats)
    op = str(stats.get("hlo_op", ""))
    if not op and line.name == _OPS:
      op = event.name.partition(" = ")[0].lstrip("%")
    module = str(stats.get("hlo_module", "")).partition("(")[0]
    end = event.start_ns + event.duration_ns
    yield Run(event.start_ns, end, module, op)


def _host_runs(plane: Any, device: int) -> Iterator[Run]:
  started, ends = [], {}
  for line in plane.lines:
    for event in line.events:
      stats = dict(event.stats)
      if "hlo_op" in stats:
        if stats.get("device_ordinal", 0) == device:
          started.append((event, stats))
      elif event.name.startswith("end: ") and "_c" in stats:
        ends[stats["_c"]] = event.start_ns
  for event, stats in started:
    end = event.start_ns + event.duration_ns
    end = max(end, ends.get(stats.get("_p"), end))
    module = str(stats.get("hlo_module", ""))
    yield Run(event.start_ns, end, module, str(stats["hlo_op"]))


def share(found: Sequence[Run], is_container: Callable[[Run], bool]) -> Shares:
  """Divides the time from the first start to the last end.

  Args:
    found: from `runs`.
    is_container: whether an operation runs others, such as a loop; it gets only
      the time in which none of those runs.

  Returns:
    Shares that add up to the total with the gap, up to float error.
  """
  seconds: Counter[tuple[str, str]] = Counter()
  counts = Counter((run.module, run.op) for run in found)
  if not found:
    return Shares(seconds, counts, 0.0, 0.0)
  moments = sorted(
    moment
    for i, run in enumerate(found)
    for moment in ((run.start, 1, i), (run.end, 0, i))
  )
  inner: set[int] = set()
  outer: set[int] = set()
  gap, before = 0.0, moments[0][0]
  for now, is_start, i in moments:
    if now > before:
      running = inner or outer
      for j in running:
        key = (found[j].module, found[j].op)
        seconds[key] += (now - before) / 1e9 / len(running)
      gap += 0.0 if running else (now - before) / 1e9
      before = now
    if found[i].end <= found[i].start:
      continue  # its end is sorted before its start
    chosen = outer if is_container(found[i]) else inner
    (chosen.add if is_start else chosen.discard)(i)
  return Shares(seconds, counts, gap, (before - moments[0][0]) / 1e9)
