"""Runs with several processes: joins, compares and ends them."""

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

# Launchers set these to the number of processes that they start.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_INDEXED_JOB = "JOB_COMPLETION_INDEX"  # Kubernetes: one pod of many
_JAX_SECONDS = 60  # how much later than ours JAX's own timeout, an abort, is
_FAREWELL_SECONDS = 10.0
_CONTRADICTION = (
  "--distributed=false runs a single process: leave it out, or leave out"
  " --coordinator, --num_processes, --process_id and --local_device_ids"
)
_LATE = (
  "error: timed out after {:g} s waiting for all processes to join: see the"
  " output of the others; all need the same --coordinator and --num_processes,"
  " each its own --process_id, and access to the port of process 0;"
  " --join_timeout waits longer, --distributed=false runs a single process"
)


def is_one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
  """Tells whether a launcher known to JAX started several processes.

  JAX has no function for this. In a shell or notebook, which is a single task,
  its `initialize` would wait for all tasks of the SLURM allocation.

  Args:
    environment: the variables that launchers set.

  Returns:
    True in a SLURM step or an Open MPI run with several tasks, and in a pod of
    an indexed Kubernetes Job.

  Raises:
    UsageError: a variable is not a number.
  """
  for name in _COUNTS:
    text = environment.get(name) or "1"
    if not text.isdecimal():
      raise UsageError(
        f"{name}={text} in the environment must be a number of processes: unset"
        " it to run a single process"
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
  """Joins the other processes of a run with `jax.distributed.initialize`.

  Call this before JAX uses a device. JAX finds arguments that are None;
  `docs/clusters.md` says where. If the others do not join in time, the program
  ends with one line and exit code 1.

  Args:
    distributed: True requires other processes, False runs a single process.
      None joins if another argument is given, on TPUs, and if
      `is_one_of_several`.
    coordinator: HOST:PORT at which process 0 listens.
    num_processes: number of processes of the run.
    process_id: number of this process, from 0.
    local_device_ids: GPUs of this host to use.
    join_timeout: seconds to wait for the others.
    heartbeat_timeout: seconds without a heartbeat after which JAX declares a
      process dead and ends the others.

  Raises:
    UsageError: incomplete or wrong arguments, no other process, or a port in
      use.
  """
  places = (coordinator, num_processes, process_id, local_device_ids)
  is_given = any(x is not None for x in places)
  if distributed is False:
    if is_given:
      raise UsageError(_CONTRADICTION)
    return
  has_others = distributed or is_given or is_one_of_several()
  # JAX sets this on import if it finds a TPU and its library.
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
  except Exception as error:  # from JAX, gRPC, Kubernetes or HTTP
    if isinstance(error, ValueError) and not has_others:
      return  # a TPU outside a pod
    raise UsageError(_explain(error)) from error
  if jax.process_count() > 1 and jax.default_backend() == "cpu":
    # Only process 0 finds programs in the cache; Gloo waits 30 s for the rest.
    jax.config.update("jax_enable_compilation_cache", False)


def _check_port(coordinator: str) -> None:
  """Refuses a port in use, for which JAX 0.10 has a segmentation fault."""
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
      " port"
    ) from error


def _explain(error: Exception) -> str:
  """Says in one line why this process cannot join the others."""
  reason = " ".join(str(error).split()).rstrip(".")
  return (
    f"cannot join other processes ({reason}): give --coordinator=HOST:PORT,"
    " --num_processes=N and --process_id=I (0 to N-1) together if JAX does not"
    " find them itself, or --distributed=false to run a single process"
  )


def check_equal(facts: Mapping[str, Any], problem: str = "") -> None:
  """Refuses facts that differ between processes; all processes must call this.

  Args:
    facts: values by name that JSON can hold.
    problem: why this process has no facts; the others report it.

  Raises:
    UsageError: in all processes, with the facts and processes that differ, or
      with the problem of another process.
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
  """Yields `check_equal`, for all processes to call once.

  If a process fails before that, the others, which wait for its facts, fail
  with its UsageError.
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
    all_shown: for each process, its facts as JSON by name.

  Returns:
    One line; empty if all facts are equal.
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
  """Says that another process ended, if that is what an error means.

  Args:
    error: raised by a collective on CPUs.

  Returns:
    One line; empty for another kind of error.
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

  Python's own exit waits for threads, and Orbax keeps some for minutes after a
  failed save. JAX's exit waits for other processes, and then aborts.

  Args:
    code: the exit status.
    line: the line to print to stderr.
    with_others: waits some seconds for the other processes to end, so that each
      can say why.
  """
  with contextlib.suppress(OSError, ValueError):  # the reader may be gone
    sys.stdout.flush()
  with contextlib.suppress(OSError, ValueError):
    print(line, file=sys.stderr, flush=True)
  if with_others and jax.distributed.is_initialized():
    with _at_most(_FAREWELL_SECONDS, code):
      jax.distributed.shutdown()
  os._exit(code)


@contextlib.contextmanager
def _at_most(seconds: float, code: int, line: str = "") -> Iterator[None]:
  """Ends the program if JAX takes longer; Ctrl-C ends it at once.

  JAX alone would abort with a stack trace, and would hide the signal from
  Python.
  """

  def give_up() -> None:
    if line:
      print(line, file=sys.stderr, flush=True)
    os._exit(code)

  timer = threading.Timer(seconds, give_up)
  timer.daemon = True
  timer.start()
  is_main = threading.current_thread() is threading.main_thread()
  if is_main:  # Python allows handlers only here
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
  try:
    yield
  finally:
    timer.cancel()
    if is_main:
      signal.signal(signal.SIGINT, previous)
