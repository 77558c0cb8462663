"""Two real processes of two devices each, against one process of four."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import textwrap
import time
from typing import Any

import jax
import numpy as np
import pytest

from essl_jax import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 8
LOSSES = ("loss", "loss_ssl", "loss_equivariance")
ONE_OF_SEVERAL = """
  import json, pathlib, sys
  import jax
  config, workdir, address, count, index = sys.argv[1:]
  if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
  assert jax.device_count() == 4
  assert jax.process_count() == int(count)
  from essl_jax import config as config_lib
  from essl_jax import train
  train.run(config_lib.parse(json.loads(config)), pathlib.Path(workdir))
"""


@dataclasses.dataclass
class Finished:
  """What processes left: files, exit statuses, lines printed, errors."""

  workdir: pathlib.Path
  statuses: list[int | None]
  printed: list[list[str]]
  errors: list[str]

  def history(self) -> dict[int, dict[str, float]]:
    """The lines of `metrics.jsonl` by step."""
    history: dict[int, dict[str, float]] = {}
    lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
    for record in map(json.loads, lines):
      figures = history.setdefault(record["step"], {})
      assert figures.keys() & record.keys() <= {"step", "wall_time"}
      figures |= record
    return history

  def results(self) -> dict[str, Any]:
    """The one `results.json`."""
    (path,) = self.workdir.rglob("results.json*")
    return json.loads(path.read_text())


def _free_address() -> str:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"


def _wait(processes: list[subprocess.Popen], seconds: float) -> None:
  """Until all have ended or one has failed; then none is left."""
  deadline = time.monotonic() + seconds
  try:
    while time.monotonic() < deadline:
      statuses = [process.poll() for process in processes]
      if None not in statuses or any(statuses):
        break
      time.sleep(0.1)
  finally:
    for process in processes:
      process.kill()
      process.wait()


def _run(folder: pathlib.Path, config: str, count: int) -> Finished:
  """One run on four devices, spread over so many processes."""
  devices = f"--xla_force_host_platform_device_count={4 // count}"
  environment = os.environ | {
    "XLA_FLAGS": devices,
    "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    "PYTHONPATH": str(ROOT),
  }
  code = textwrap.dedent(ONE_OF_SEVERAL)
  workdir, address = folder / "run", _free_address()
  processes = []
  for index in range(count):
    arguments = [config, str(workdir), address, str(count), str(index)]
    # Files, for nobody reads the pipes while two processes wait in turn.
    with (
      (folder / f"{index}.out").open("w") as output,
      (folder / f"{index}.err").open("w") as errors,
    ):
      processes.append(
        subprocess.Popen(
          [sys.executable, "-c", code, *arguments],
          env=environment,
          stdout=output,
          stderr=errors,
        )
      )
  _wait(processes, seconds=240)
  outputs = [(folder / f"{i}.out").read_text() for i in range(count)]
  return Finished(
    workdir,
    [process.returncode for process in processes],
    # Gloo itself reports its connections on the standard output.
    [
      [line for line in text.splitlines() if not line.startswith("[Gloo]")]
      for text in outputs
    ],
    [(folder / f"{i}.err").read_text() for i in range(count)],
  )


@pytest.fixture(scope="module")
def config(tiny_config):
  """SimCLR: its negatives are gathered from the other process too.

  No colour, which would double the compilation. At a tenth of the learning
  rate rounding errors do not grow: the gradient's norm begins at 45.
  """
  plain = {"size": 16, "jitter_probability": 0.0, "grayscale": 0.0}
  made = tiny_config(
    "simclr",
    data={"train_split": "train[:64]", "test_split": "test[:40]"},
    views={"first": plain, "second": plain, "third": plain | {"size": 8}},
    optimizer={"learning_rate": 0.003},
  )
  return json.dumps(config_lib.to_dict(made))


@pytest.fixture(scope="module")
def pair(config, tmp_path_factory):
  return _run(tmp_path_factory.mktemp("pair"), config, 2)


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
  return _run(tmp_path_factory.mktemp("alone"), config, 1)


def test_both_processes_end_well_and_one_speaks(pair):
  assert pair.statuses == [0, 0], pair.errors
  text = "\n".join(pair.printed[0])
  assert "on 4 cpu device(s)" in text
  assert f"step {STEPS}/{STEPS}" in text
  assert "linear probe top-1" in text
  assert pair.printed[1] == []


def test_one_process_writes(pair):
  assert pair.statuses == [0, 0], pair.errors
  assert pair.results()["step"] == STEPS
  assert sorted(pair.history()) == list(range(STEPS + 1))
  assert len(list((pair.workdir / "tensorboard").iterdir())) == 1
  names = {path.name for path in pair.workdir.iterdir()}
  assert names >= {"config.json", "metrics.jsonl", "checkpoints"}
  assert not [name for name in names if name.endswith(".tmp")]


def test_two_processes_train_as_one_does(pair, alone):
  """Data order, augmentation, negatives and statistics span the processes.

  The warm-up begins at a learning rate of 0: two steps see the same weights,
  and their losses agree to rounding. Later ones see what rounding has become.
  """
  assert pair.statuses == [0, 0], pair.errors
  assert alone.statuses == [0], alone.errors
  actual, expected = pair.history(), alone.history()
  for step in range(1, STEPS + 1):
    assert actual[step].keys() == expected[step].keys()
    tolerance = 1e-5 if step <= 2 else 2e-2
    for name in LOSSES:
      np.testing.assert_allclose(
        actual[step][name],
        expected[step][name],
        rtol=tolerance,
        err_msg=f"{name}, step {step}",
      )
  assert expected[1]["learning_rate"] == 0 < expected[2]["learning_rate"]


def test_two_processes_measure_as_one_does(pair, alone):
  """The same untrained encoder, but for one of the 40 test images."""
  assert pair.statuses == [0, 0], pair.errors
  assert alone.statuses == [0], alone.errors
  actual, expected = pair.results(), alone.results()
  np.testing.assert_allclose(
    actual["untrained"]["knn_top1"],
    expected["untrained"]["knn_top1"],
    atol=100 / 40 + 1e-6,
  )
  assert actual["figures"].keys() == expected["figures"].keys()
  for name in actual["figures"]:
    assert actual["figures"][name].keys() == expected["figures"][name].keys()
