"""Single-threaded worker processes; imports no numerical library."""

from collections.abc import Callable, Generator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
import multiprocessing
import os
import signal
import threading
import time
from typing import Any

from essl_jax.errors import UsageError

# Without these, the workers' linear algebra competes for the same cores.
ONE_THREAD = {
  "OPENBLAS_NUM_THREADS": "1",
  "OMP_NUM_THREADS": "1",
  "JAX_PLATFORMS": "cpu",
}


def run(
  function: Callable[..., Any],
  tasks: Sequence[tuple[Any, ...]],
  workers: int,
) -> Generator[tuple[tuple[Any, ...], Any], None, None]:
  """Calls a function in single-threaded processes, or here if one is enough.

  Threads of one process would share XLA's thread pool, where LAPACK calls in
  loops deadlock on two cores.

  Args:
    function: the function to call.
    tasks: arguments of each call.
    workers: largest number of processes.

  Yields:
    Each task and its result, as tasks finish. Close the generator to stop
    early.

  Raises:
    UsageError: a process died.
  """
  workers = min(workers, len(tasks))
  if workers == 1:
    for task in tasks:
      yield task, function(*task)
    return
  old = {name: os.environ.get(name) for name in ONE_THREAD}
  os.environ.update(ONE_THREAD)
  spawn = multiprocessing.get_context("spawn")
  executor = futures.ProcessPoolExecutor(
    workers, spawn, start_worker, (os.getpid(),)
  )
  try:
    begun = {executor.submit(function, *task): task for task in tasks}
    for future in futures.as_completed(begun):
      # Popped, so that finished results are not kept.
      yield begun.pop(future), future.result()
  except BrokenProcessPool as error:
    raise UsageError(
      "a worker process died, perhaps because memory ran out: run the same"
      " command again, with fewer --workers"
    ) from error
  finally:
    executor.shutdown(wait=True, cancel_futures=True)
    for name, value in old.items():
      if value is None:
        os.environ.pop(name, None)
      else:
        os.environ[name] = value


def start_worker(parent: int) -> None:
  """Leaves Ctrl-C to the parent process, and ends when the parent ends.

  Args:
    parent: id of the parent process.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(1)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
