"""Processes that are killed or stopped by SIGTERM, and resume."""

import logging as python_logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax.storage.checkpoint import Checkpoints
from essl_jax.storage.preemption import Preemption

ROOT = pathlib.Path(__file__).parents[2]


def start(code: str, *arguments: Any, **environment: str) -> subprocess.Popen:
  """Starts Python on one simulated device with the package importable."""
  variables = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
  return subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
    env=variables | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


KILLED_WHILE_SAVING = """
  import os, signal, sys
  import jax.numpy as jnp
  import orbax.checkpoint as ocp
  from essl_jax.storage.checkpoint import Checkpoints

  finalize = ocp.CompositeCheckpointHandler.finalize

  def die_before_the_last_renaming(self, directory):
    finalize(self, directory)
    if directory.name.startswith("3."):
      print(sorted(os.listdir(directory.parent)), flush=True)
      os.kill(os.getpid(), signal.SIGKILL)

  ocp.CompositeCheckpointHandler.finalize = die_before_the_last_renaming
  with Checkpoints(sys.argv[1]) as checkpoints:
    for step in range(1, 5):
      checkpoints.save(step, {"x": jnp.full((300, 300), float(step))})
"""


def test_a_save_that_was_killed_is_never_offered(tmp_path):
  process = start(KILLED_WHILE_SAVING, tmp_path)
  output, errors = process.communicate(timeout=60)
  assert process.returncode == -signal.SIGKILL, errors
  assert "'3.orbax-checkpoint-tmp" in output
  like = {"x": jnp.zeros((300, 300))}
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.latest_step() == 2
    np.testing.assert_array_equal(checkpoints.restore(like)["x"], 2.0)
  assert len(list((tmp_path / "checkpoints").iterdir())) == 2
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() == 2
    checkpoints.save(3, {"x": jnp.full((300, 300), 3.5)})
    np.testing.assert_array_equal(checkpoints.restore(like)["x"], 3.5)
  assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
  process = start(
    """
      import sys
      import jax, jax.numpy as jnp
      from essl_jax.storage.checkpoint import Checkpoints
      noise = jax.random.uniform(jax.random.key(0), (500, 2000))
      with Checkpoints(sys.argv[1]) as checkpoints:
        for step in range(1, 10_000):
          checkpoints.save(step, {"x": noise + step})
          print(step, flush=True)
    """,
    tmp_path,
  )
  assert process.stdout is not None
  for line in process.stdout:
    if int(line) == 7:
      break
  process.kill()
  process.communicate(timeout=60)
  noise = jax.random.uniform(jax.random.key(0), (500, 2000))
  with Checkpoints(tmp_path) as checkpoints:
    step = checkpoints.latest_step()
    assert step is not None and step >= 5
    restored = checkpoints.restore({"x": noise})["x"]
  np.testing.assert_array_equal(restored, noise + step)


def test_orbax_is_silent_but_for_errors(tmp_path):
  process = start(
    """
      import sys
      import jax.numpy as jnp
      from essl_jax.storage.checkpoint import Checkpoints
      with Checkpoints(sys.argv[1]) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)})
        checkpoints.save(2, {"x": jnp.zeros(3)}, {"knn_top1": 1.0})
        checkpoints.restore({"x": jnp.zeros(3)})
      with Checkpoints(sys.argv[1], read_only=True) as checkpoints:
        checkpoints.restore({"x": jnp.zeros(3)})
      assert "tensorflow" not in sys.modules
    """,
    tmp_path,
  )
  assert process.communicate(timeout=60) == ("", "")
  assert process.returncode == 0

  def record(level: int, path: str) -> python_logging.LogRecord:
    return python_logging.LogRecord("absl", level, path, 1, "text", None, None)

  is_shown = python_logging.getLogger("absl").filter
  assert not is_shown(record(python_logging.WARNING, "/lib/orbax/x.py"))
  assert is_shown(record(python_logging.ERROR, "/lib/orbax/x.py"))
  assert is_shown(record(python_logging.WARNING, "/lib/other/x.py"))


def test_a_second_sigterm_does_not_disturb_the_save(tmp_path):
  process = start(
    """
      import os, signal, sys
      import jax.numpy as jnp
      from essl_jax.storage.checkpoint import Checkpoints
      from essl_jax.storage.preemption import Preemption
      with Checkpoints(sys.argv[1]) as checkpoints, Preemption() as preemption:
        for step in range(1, 100):
          if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
          if preemption.reached():
            checkpoints.save(step, {"x": jnp.full((1000, 1000), step)})
            os.kill(os.getpid(), signal.SIGTERM)
            break
    """,
    tmp_path,
  )
  _, errors = process.communicate(timeout=60)
  assert (process.returncode, errors) == (0, "")
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore({"x": jnp.zeros((1000, 1000), jnp.int32)})
  assert checkpoints.latest_step() == 5
  np.testing.assert_array_equal(restored["x"], 5)


ONE_OF_TWO = """
  import os, signal, sys, time
  import jax
  jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
  import jax.numpy as jnp
  import numpy as np
  from jax.sharding import Mesh, NamedSharding, PartitionSpec
  from essl_jax.storage.checkpoint import Checkpoints
  from essl_jax.storage.preemption import Preemption
  from essl_jax.storage.workdir import check_config

  check_config(sys.argv[1], {"seed": 0})
  mesh = Mesh(np.array(jax.devices()), ("batch",))
  everywhere = NamedSharding(mesh, PartitionSpec())
  advance = jax.jit(lambda x: x + 1, donate_argnums=0)

  def make(value):
    return jax.make_array_from_process_local_data(
      everywhere, np.full((64, 64), value, np.float32))

  with Checkpoints(sys.argv[1]) as checkpoints, Preemption() as preemption:
    start = checkpoints.latest_step() or 0
    x = make(0.0)
    if start:
      x = checkpoints.restore({"x": x})["x"]
      assert x.sharding == everywhere
    for step in range(start + 1, 2000):
      x = advance(x)
      if step == start + 3:
        checkpoints.save(step, {"x": x}, {"knn_top1": 1.0})
        if jax.process_index() == 1:
          os.kill(os.getpid(), signal.SIGTERM)
      if preemption.reached():
        checkpoints.save(step, {"x": x}, wait=True)
        break
      time.sleep(0.01)
  value = np.asarray(x.addressable_data(0))
  assert (value == step).all(), (value, step)
  print(start, step, preemption.reached(), flush=True)
"""


def test_two_processes_save_stop_and_resume_together(tmp_path):
  resumed_from = 0
  for _ in range(2):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      address = f"localhost:{free.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=2"
    processes = [
      start(ONE_OF_TWO, tmp_path, address, index, XLA_FLAGS=flags)
      for index in range(2)
    ]
    try:
      results = [process.communicate(timeout=120) for process in processes]
    finally:
      for process in processes:
        process.kill()
    assert [p.returncode for p in processes] == [0, 0], results
    lines = [output.splitlines()[-1] for output, _ in results]
    assert lines[0] == lines[1]
    began, ended, reached = lines[0].split()
    assert (int(began), reached) == (resumed_from, "True")
    resumed_from = int(ended)
    assert 3 < resumed_from - int(began) < 1500
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {"config.json", "checkpoints"}


def test_sigterm_is_noted_and_the_old_handler_comes_back():
  seen: list[int] = []
  before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
  interrupt = signal.getsignal(signal.SIGINT)
  try:
    with Preemption() as preemption:
      assert signal.getsignal(signal.SIGINT) is interrupt
      assert not preemption.reached()
      signal.raise_signal(signal.SIGTERM)
      signal.raise_signal(signal.SIGTERM)
      assert preemption.reached()
      assert preemption.reached()
    assert not seen
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]
  finally:
    signal.signal(signal.SIGTERM, before)


def test_preemption_does_nothing_off_the_main_thread():
  before = signal.getsignal(signal.SIGTERM)
  results: list[Any] = []

  def work() -> None:
    with Preemption() as preemption:
      results.append(signal.getsignal(signal.SIGTERM) is before)
      results.append(preemption.reached())

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert results == [True, False]
