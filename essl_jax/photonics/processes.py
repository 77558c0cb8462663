"""Worker processes of one thread each; imports no numerical library."""

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

# Without these, workers' linear algebra fights over the same cores.
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
  """Calls a function in processes of one thread each; here where one is enough.

  Threads of one process would share XLA's thread pool, in which LAPACK calls
  within loops dead-lock on two cores.

  Args:
    function: to call.
    tasks: its arguments, one call each.
    workers: how many processes at most.

  Yields:
    A task and what the function returns, as tasks are finished. Close the
    generator to stop before the end.

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
      "a worker process died, perhaps of too little memory: run the same"
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
  """Leaves Ctrl-C to the parent, and does not outlive it.

  Args:
    parent: the id of the process that starts this one.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(1)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
