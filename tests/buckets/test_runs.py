"""Whole runs in a bucket, against the same one in a folder."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import fault_worker
import program_helpers
import pytest

from essl_jax.storage import claim, places


def _start(recipe, workdir, *flags):
  return subprocess.Popen(
    program_helpers.command(recipe, workdir, *flags),
    env=program_helpers.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _end(process):
  output, errors = process.communicate(timeout=200)
  assert process.returncode == 0, errors
  assert "Traceback" not in output + errors
  return output


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
  """Of six steps, with a checkpoint and a kNN accuracy after every second."""
  path = tmp_path_factory.mktemp("recipe") / "recipe.py"
  path.write_text(fault_worker.RECIPE)
  return path


@pytest.fixture(scope="module")
def local(recipe, tmp_path_factory):
  """The workdir of an undisturbed run in a folder, and its seconds."""
  workdir, begun = tmp_path_factory.mktemp("local") / "run", time.monotonic()
  _end(_start(recipe, workdir))
  return workdir, time.monotonic() - begun


NAMES = [
  ".lease-1",
  "about.json",
  "checkpoints",
  "config.json",
  "metrics-0.jsonl",
  "results.json",
  "starts.json",
  "summary.png",
  "tensorboard",
]


def test_it_is_the_same_run(recipe, local, workdir, tmp_path):
  """Also its report, whose page goes to the bucket or anywhere else."""
  begun = time.monotonic()
  output = _end(_start(recipe, workdir))
  print(f"{local[1]:.1f} s in a folder, {time.monotonic() - begun:.1f} here")
  assert f"{workdir}/results.json" in output
  assert places.names(workdir) == NAMES
  assert fault_worker.differences(workdir, local[0]) == ""
  for out in (workdir / "report.html", tmp_path / "report.html"):
    told = subprocess.run(
      [sys.executable, "-m", "essl_jax.report", str(workdir), str(local[0])]
      + [f"--out={out}", "--images=0"],
      env=program_helpers.environment(),
      capture_output=True,
      text=True,
      check=True,
    )
    assert f"wrote {out}" in told.stdout
    assert places.exists(out)


def test_sigterm_saves_and_the_same_command_goes_on(recipe, local, workdir):
  """As on a spot machine that is about to be preempted."""
  process = _start(recipe, workdir)
  assert process.stdout is not None
  for line in process.stdout:
    if line.startswith("epoch 1/3"):
      process.send_signal(signal.SIGTERM)
      break
  assert "stopped by SIGTERM" in _end(process)
  assert places.names(workdir / "checkpoints")
  _end(_start(recipe, workdir))
  assert fault_worker.differences(workdir, local[0]) == ""


@pytest.mark.faults
def test_killed_at_any_time(recipe, local, workdir):
  """Twenty times, each in a workdir of its own."""
  draws, survived = random.Random(0), 0
  for i in range(20):
    run = workdir / str(i)
    process = _start(recipe, run)
    assert process.stdout is not None
    process.stdout.readline()  # training begins
    time.sleep(draws.uniform(0, local[1] * 0.8))
    process.kill()
    process.communicate()
    _end(_start(recipe, run))
    assert fault_worker.differences(run, local[0]) == ""
    left = set(places.names(run)) - set(NAMES)
    allowed = (".lease-", "metrics-", "starts.json.cut-")
    assert all(name.startswith(allowed) for name in left), left
    steps = places.names(run / "checkpoints")
    assert set(steps) <= {"2", "4", "6"}, steps
    survived += 1
  print(f"{survived} of 20")


@pytest.mark.parametrize(
  ("flags", "told"),
  [
    (["--workdir=gs://no_such_bucket/run"], "there is no bucket"),
    (["--workdir=gcs://bucket/run"], "unknown scheme gcs://"),
    (["--workdir=gs://bucket"], "names no folder in a bucket"),
  ],
)
def test_wrong_input_is_one_line(flags, told, server, recipe):
  process = _start(recipe, "unused", *flags, "--config.data.name=none")
  output, errors = process.communicate(timeout=100)
  (line,) = errors.splitlines()
  assert (process.returncode, output) == (2, "")
  assert line.startswith("error: ") and told in line
  assert not os.path.exists("unused")


@pytest.mark.slow
def test_two_processes(server, tiny_config, workdir, tmp_path):
  """The checkpoint is written by both, and read by one."""
  import process_helpers

  config = process_helpers.make_config(tiny_config)
  flags = {i: [f"--workdir={workdir}"] for i in range(2)}
  ended = process_helpers.run(tmp_path, config, 2, flags=flags)
  assert ended.statuses == [0, 0], ended.errors
  results = json.loads((workdir / "results.json").read_text())
  assert results["step"] == 8
  again = process_helpers.run(
    tmp_path, config, 1, flags={0: [flags[0][0], "--config.mode=evaluate"]}
  )
  assert again.statuses == [0], again.errors


@pytest.mark.slow
def test_a_process_that_does_not_reach_the_bucket(
  server, tiny_config, workdir, tmp_path
):
  """Both say so in one line, and nothing blocks the next start."""
  import process_helpers

  config = process_helpers.make_config(tiny_config)
  flags = {i: [f"--workdir={workdir}"] for i in range(2)}
  alone = (
    "import os\nos.environ['STORAGE_EMULATOR_HOST'] = 'http://127.0.0.1:9'\n"
  )
  ended = process_helpers.run(tmp_path, config, 2, flags=flags, changes=alone)
  assert ended.statuses == [1, 1], ended.errors
  assert "Traceback" not in "".join(ended.errors)
  (line,) = ended.told(1)
  assert line.startswith("error: a bucket cannot be reached")
  assert any(line.startswith("error: ") for line in ended.told(0))
  with claim.hold(workdir, lambda _: None):
    assert places.names(workdir) == [".lease-2"]
