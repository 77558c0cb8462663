"""Worker processes of one thread each; imports no numerical library."""

from collections.abc import Iterator
import concurrent.futures
import concurrent.futures.process
import contextlib
import multiprocessing
import os
import signal
import threading
import time

from essl_jax.errors import UsageError

# Without these, workers' linear algebra fights over the same cores.
ONE_THREAD = {
  "OPENBLAS_NUM_THREADS": "1",
  "OMP_NUM_THREADS": "1",
  "JAX_PLATFORMS": "cpu",
}


@contextlib.contextmanager
def pool(
  workers: int, tasks: int
) -> Iterator[concurrent.futures.ProcessPoolExecutor | None]:
  """Processes of one thread each; None where one is enough.

  Threads of one process would share XLA's thread pool, in which LAPACK calls
  within loops dead-lock on two cores.

  Args:
    workers: how many processes at most.
    tasks: how many tasks there are.

  Yields:
    The processes, or None.

  Raises:
    UsageError: one of them died.
  """
  if min(workers, tasks) == 1:
    yield None
    return
  old = {name: os.environ.get(name) for name in ONE_THREAD}
  os.environ.update(ONE_THREAD)
  executor = concurrent.futures.ProcessPoolExecutor(
    min(workers, tasks),
    multiprocessing.get_context("spawn"),
    _start_worker,
    (os.getpid(),),
  )
  try:
    yield executor
  except concurrent.futures.process.BrokenProcessPool as error:
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


def _start_worker(parent: int) -> None:
  """Leaves Ctrl-C to the parent, and does not outlive it."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(1)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
