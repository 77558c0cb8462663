"""`kill -9` at any moment, and whole processes that fail or are killed."""

import contextlib
import errno
import re
import signal
import subprocess
import time

import fault_worker
import injection
import program_helpers
import pytest


@pytest.mark.parametrize(
  "step",
  [
    pytest.param(1, marks=pytest.mark.slow),
    pytest.param(4, marks=pytest.mark.faults),
  ],
)
def test_killed_before_a_call_that_changes_the_workdir(step, worker):
  """The same command resumes from what each moment leaves."""
  found = worker.killed(step)
  print(f"{len(found)} moments of a kill")
  assert len(found) > 150 // step
  assert [x for x in found if x["wrong"]] == []


@pytest.mark.faults
@pytest.mark.parametrize(
  ("call", "pattern", "at", "action"),
  [
    ("write", "checkpoints/*", 20, injection.FAIL_FROM),
    ("write", "tensorboard/*", 1, injection.FAIL_FROM),
    ("rename", "checkpoints/*", 3, injection.FAIL),
    ("write", "checkpoints/*", 20, injection.KILL),
    ("rename", "checkpoints/*", 3, injection.KILL),
  ],
)
def test_whole_processes(
  call, pattern, at, action, variables, worker, tmp_path
):
  """As above; no thread of Python, JAX or Orbax keeps the process alive."""
  recipe, workdir = tmp_path / "recipe.py", tmp_path / "run"
  recipe.write_text(fault_worker.RECIPE)
  control_file = tmp_path / "control"
  control = injection.Control.open(control_file)
  control.arm(
    workdir,
    calls=(call,),
    pattern=pattern,
    at=at,
    action=action,
    error=errno.ENOSPC,
  )
  disturbed = variables | {"FAULTS": str(control_file)}
  begun = subprocess.Popen(
    program_helpers.command(recipe, workdir),
    env=program_helpers.environment() | disturbed,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  with begun, contextlib.ExitStack() as stack:
    stack.callback(begun.kill)
    assert begun.stderr is not None
    errors = begun.stderr.readline()
    told = time.monotonic()
    errors += begun.stderr.read()
    code = begun.wait(timeout=60)
  assert time.monotonic() - told < 10
  if action == injection.KILL:
    assert (code, errors) == (-signal.SIGKILL, "")
  else:
    assert code == 1
    assert re.fullmatch("error: .*No space left on device.*\n", errors)
  done = program_helpers.run(recipe, workdir)
  assert done.returncode == 0, done.stderr
  assert fault_worker.differences(workdir, worker.expected) == ""
