"""The time from a program's start to its first step."""

import json
import os
import pathlib
import sys
import time

import pytest
import start_benchmark

from essl_jax.errors import UsageError

# Writes a step, then half of a line, and waits to be killed.
_PROGRAM = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
with open(folder / "metrics-0.jsonl", "w") as file:
  file.write(json.dumps({"step": 0, "wall_time": 1.0}) + chr(10))
  file.flush()
  time.sleep(0.5)
  file.write(json.dumps({"step": 1, "wall_time": time.time()}) + chr(10) + "{")
  file.flush()
  time.sleep(600)
"""


def test_the_first_step_is_waited_for_and_the_program_killed(tmp_path):
  workdir = tmp_path / "run"
  command = [sys.executable, "-c", _PROGRAM, str(workdir)]
  start = time.monotonic()
  seconds = start_benchmark.first_step(command, workdir, os.environ)
  assert 0.5 < seconds < time.monotonic() - start < 60


def test_a_program_that_ends_before_is_quoted(tmp_path):
  command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
  with pytest.raises(UsageError, match="before its first.*code 1: no such"):
    start_benchmark.first_step(command, tmp_path / "run", os.environ)


def test_starts_with_an_empty_and_with_a_filled_cache(monkeypatch, capsys):
  caches, times = [], iter([20.0, 5.0, 9.0, 6.0])

  def first_step(command, workdir, variables):
    assert f"--workdir={workdir}" in command and "--config.epochs=2" in command
    caches.append(variables["JAX_COMPILATION_CACHE_DIR"])
    assert pathlib.Path(caches[-1]).parent == workdir.parent
    return next(times)

  monkeypatch.setattr(start_benchmark, "first_step", first_step)
  words = ["--config=some.py", "--flag=--config.epochs=2", "--rounds=3"]
  assert start_benchmark.main(words) == 0
  found = json.loads(capsys.readouterr().out)
  assert len(set(caches)) == 1
  assert found["empty_cache_seconds"] == 20.0
  assert found["each_seconds"] == [5.0, 9.0, 6.0]
  assert found["median_seconds"] == 6.0
  assert found["config"] == "some.py"


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--rounds=0"], "--rounds must be at least 1; got 0"),
    (["--config=missing.py"], "config file missing.py does not exist"),
    (["--step=1"], "unrecognized arguments: --step=1"),
  ],
)
def test_wrong_input_is_told_in_one_line(words, message, capsys):
  assert start_benchmark.main(words) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
