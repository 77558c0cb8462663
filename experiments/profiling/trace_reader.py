"""Reads a profiler's trace: when which operation ran on one device."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
import pathlib
import re
from typing import Any, NamedTuple

from essl_jax.errors import UsageError

# Lines of a device that repeat, in other words, what its streams hold.
_STREAM = re.compile(r"^Stream #")
_OPS = "XLA Ops"


class Run(NamedTuple):
  """One run of an operation.

  Attributes:
    start: nanoseconds.
    end: nanoseconds.
    module: the program, such as `jit_train_step`; empty where unknown.
    op: the operation's name in the program; empty where unknown.
  """

  start: float
  end: float
  module: str
  op: str


class Shares(NamedTuple):
  """How a stretch of time was spent.

  Attributes:
    seconds: by program and operation; while several run, they share equally.
    runs: how often each ran.
    gap: seconds without any.
    total: seconds from first to last.
  """

  seconds: Counter[tuple[str, str]]
  runs: Counter[tuple[str, str]]
  gap: float
  total: float


def load(folder: pathlib.Path) -> Any:
  """The newest trace below a folder, as `jax.profiler.ProfileData`.

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
  """What ran on one device, in order of its start.

  GPUs and TPUs have a plane of their own. On a CPU operations are in the
  host's threads; one that others finish ends with an event of its own.

  Args:
    data: `jax.profiler.ProfileData`.
    device: its number.

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
    is_container: of operations that run others, such as loops: theirs is only
      the time in which none of those runs.

  Returns:
    Shares whose sum with the gap is the total, to float error.
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
