"""Worker processes, which do not outlive their parent."""

import os
import pathlib
import subprocess
import sys
import textwrap
import time

import photonics_speed
import pytest

from essl_jax.photonics import processes

PARENT = """
  from concurrent import futures
  import multiprocessing, os, time
  from essl_jax.photonics import processes

  if __name__ == "__main__":
    pool = futures.ProcessPoolExecutor(
      1,
      multiprocessing.get_context("spawn"),
      processes.start_worker,
      (os.getpid(),),
    )
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
  """Also after kill -9, when the parent cannot tell its workers."""
  program = tmp_path / "parent.py"
  program.write_text(textwrap.dedent(PARENT))
  root = pathlib.Path(processes.__file__).parents[2]
  parent = subprocess.Popen(
    [sys.executable, str(program)],
    stdout=subprocess.PIPE,
    env=os.environ | {"PYTHONPATH": str(root)},
  )
  worker = int(parent.stdout.readline())
  parent.kill()
  parent.wait()
  deadline = time.monotonic() + 20
  while _is_alive(worker):
    assert time.monotonic() < deadline, "the worker lives on"
    time.sleep(0.1)


def _is_alive(process):
  try:
    state = pathlib.Path(f"/proc/{process}/stat").read_text().split()[2]
  except OSError:
    return False
  return state != "Z"  # a zombie has ended


def test_the_measurement_of_speed_uses_such_workers(monkeypatch):
  class Stop(Exception):  # noqa: N818 - nothing is wrong
    pass

  def make(count, context, initializer, arguments):
    assert initializer is processes.start_worker
    assert arguments == (os.getpid(),)
    raise Stop

  pool = photonics_speed.concurrent.futures
  monkeypatch.setattr(pool, "ProcessPoolExecutor", make)
  monkeypatch.setattr(sys, "argv", ["photonics_speed.py"])
  with pytest.raises(Stop):
    photonics_speed.main()
