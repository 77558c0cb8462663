"""Runs of several processes: joining, comparing and ending them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import os
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

import jax

from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.texts import some

# A launcher sets them to the number of processes that it starts.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_INDEXED_JOB = "JOB_COMPLETION_INDEX"  # Kubernetes: one pod of many
_JAX_SECONDS = 60  # by which JAX's own timeout, an abort, is later than ours
_FAREWELL_SECONDS = 10.0
_CONTRADICTION = (
  "--distributed=false runs alone: leave it out, or leave out --coordinator,"
  " --num_processes, --process_id and --local_device_ids"
)
_LATE = (
  "error: the processes did not all join within {:g} s: look at the output of"
  " the others; all need the same --coordinator and --num_processes, a"
  " --process_id of their own and a way to the port of process 0;"
  " --join_timeout waits longer, --distributed=false runs alone"
)


def is_one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
  """Says whether a launcher known to JAX started more processes than this.

  JAX cannot be asked, and its `initialize` would wait for the tasks of a whole
  SLURM allocation in a shell or notebook that is a single one.

  Args:
    environment: the variables that launchers set.

  Returns:
    True for a SLURM step or Open MPI run of several tasks and for a pod of an
    indexed Kubernetes Job.

  Raises:
    UsageError: a variable holds no number.
  """
  for name in _COUNTS:
    text = environment.get(name) or "1"
    if not text.isdecimal():
      raise UsageError(
        f"{name}={text} in the environment is no number of processes: unset it"
        " to run alone"
      )
    if int(text) > 1:
      return True
  return _INDEXED_JOB in environment


def initialize(
  *,
  distributed: bool | None = None,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  local_device_ids: Sequence[int] | None = None,
  join_timeout: float = 300.0,
  heartbeat_timeout: int = 100,
) -> None:
  """Joins the other processes with `jax.distributed.initialize`, or none.

  To be called before anything of JAX uses a device. What is None is found by
  JAX; `docs/clusters.md` says where. The program ends with one line and code 1
  where the others do not come in time.

  Args:
    distributed: True insists on joining, False runs alone; None joins where
      another argument is given, on TPUs and where `is_one_of_several`.
    coordinator: HOST:PORT at which process 0 listens.
    num_processes: of the run.
    process_id: of this process, from 0.
    local_device_ids: GPUs of this host to use.
    join_timeout: seconds to wait for the others.
    heartbeat_timeout: seconds without a sign of life after which JAX takes a
      process for dead, and ends the others.

  Raises:
    UsageError: incomplete or wrong arguments, nobody to join, a port in use.
  """
  places = (coordinator, num_processes, process_id, local_device_ids)
  is_given = any(x is not None for x in places)
  if distributed is False:
    if is_given:
      raise UsageError(_CONTRADICTION)
    return
  has_others = distributed or is_given or is_one_of_several()
  # JAX has set it on its import where it found a TPU and its library.
  is_tpu = "tpu" in (jax.config.values["jax_platforms"] or "")
  if not has_others and not is_tpu:
    return
  if coordinator is not None and process_id == 0:
    _check_port(coordinator)
  try:
    with _at_most(join_timeout, 1, _LATE.format(join_timeout)):
      jax.distributed.initialize(
        *places,
        initialization_timeout=int(join_timeout) + _JAX_SECONDS,
        heartbeat_timeout_seconds=heartbeat_timeout,
      )
  except Exception as error:  # of JAX, gRPC, Kubernetes or HTTP
    if isinstance(error, ValueError) and not has_others:
      return  # a TPU that belongs to no pod
    raise UsageError(_explain(error)) from error
  if jax.process_count() > 1 and jax.default_backend() == "cpu":
    # Only process 0 finds its programs there; Gloo waits 30 s for the rest.
    jax.config.update("jax_enable_compilation_cache", False)


def _check_port(coordinator: str) -> None:
  """Refuses a port in use, at which JAX 0.10 ends by a segmentation fault."""
  is_dual = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if is_dual else socket.AF_INET
  try:
    with socket.socket(family) as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      if is_dual:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
      probe.bind(("", int(coordinator.rpartition(":")[2])))
  except OSError as error:
    raise UsageError(
      f"process 0 cannot listen at the port of --coordinator={coordinator}:"
      f" {error}: end the program that uses it, or give all processes another"
    ) from error


def _explain(error: Exception) -> str:
  """Says in one line why the processes cannot be joined."""
  reason = " ".join(str(error).split()).rstrip(".")
  return (
    f"cannot join other processes ({reason}): give --coordinator=HOST:PORT,"
    " --num_processes=N and --process_id=I (0 to N-1) together where JAX does"
    " not find them itself, or --distributed=false to run alone"
  )


def check_equal(facts: Mapping[str, Any], problem: str = "") -> None:
  """Refuses facts that differ between processes; all of them call this.

  Args:
    facts: value by name; what JSON can hold.
    problem: why this process has no facts, which the others are told.

  Raises:
    UsageError: in all processes, naming facts and processes that differ; or
      the problem of another process.
  """
  if jax.process_count() == 1:
    return
  parallel.check_device_counts(jax.devices())
  shown = {name: json.dumps(value) for name, value in facts.items()}
  texts = parallel.gather_text(json.dumps({"facts": shown, "problem": problem}))
  everybody = [json.loads(text) for text in texts]
  if problem:
    return
  for index, told in enumerate(everybody):
    if told["problem"]:
      raise UsageError(f"process {index}: {told['problem']}")
  if differences := describe_differences([x["facts"] for x in everybody]):
    raise UsageError(differences)


@contextlib.contextmanager
def one_comparison() -> Iterator[Callable[[Mapping[str, Any]], None]]:
  """Gives `check_equal`, for all processes to call once.

  A process that fails before has no facts; the others, which wait for them,
  then fail with its UsageError.
  """
  is_done = False

  def check(facts: Mapping[str, Any]) -> None:
    nonlocal is_done
    is_done = True
    check_equal(facts)

  try:
    yield check
  except UsageError as error:
    if not is_done:
      check_equal({}, problem=str(error))
    raise


def describe_differences(all_shown: Sequence[Mapping[str, str]]) -> str:
  """Says which facts differ between processes.

  Args:
    all_shown: by process, the JSON of every fact by its name.

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
      held = (
        f"{value} in process {some(indices)}"
        for value, indices in owners.items()
      )
      parts.append(f"{name} is {some(list(held), separator=' and ')}")
  if not parts:
    return ""
  return (
    "the processes were started differently:"
    f" {some(parts, separator='; ')}: start all of them with the same command,"
    " code and data"
  )


def describe_loss(error: Exception) -> str:
  """Says that another process ended; empty if an error means something else.

  Args:
    error: what a collective of CPUs raised.

  Returns:
    One line.
  """
  text = " ".join(str(error).split())
  if not jax.distributed.is_initialized() or "Gloo" not in text:
    return ""
  return (
    "another process ended or was killed: see its output; the same command"
    f" resumes from the last checkpoint ({text[:150]})"
  )


def end(code: int, line: str, *, with_others: bool = True) -> NoReturn:
  """Ends the program at once, whatever its threads and other processes do.

  Python's own end waits for threads, of which Orbax leaves some for minutes
  when a save has failed. JAX's waits for other processes, and then aborts.

  Args:
    code: the exit status.
    line: printed to stderr.
    with_others: waits some seconds for the others to end as well, so that
      each can say why.
  """
  with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
    sys.stdout.flush()
  with contextlib.suppress(OSError, ValueError):
    print(line, file=sys.stderr, flush=True)
  if with_others and jax.distributed.is_initialized():
    with _at_most(_FAREWELL_SECONDS, code):
      jax.distributed.shutdown()
  os._exit(code)


@contextlib.contextmanager
def _at_most(seconds: float, code: int, line: str = "") -> Iterator[None]:
  """Ends the program where JAX takes longer; Ctrl-C ends it at once.

  Left to itself, JAX aborts with a stack trace, and keeps Python from hearing
  of the signal.
  """

  def give_up() -> None:
    if line:
      print(line, file=sys.stderr, flush=True)
    os._exit(code)

  timer = threading.Timer(seconds, give_up)
  timer.daemon = True
  timer.start()
  is_main = threading.current_thread() is threading.main_thread()
  if is_main:  # elsewhere Python allows no handler
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
  try:
    yield
  finally:
    timer.cancel()
    if is_main:
      signal.signal(signal.SIGINT, previous)
