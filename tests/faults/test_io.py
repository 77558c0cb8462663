"""Failing system calls: one line, soon, and then a run that is as undisturbed.

`fault_worker` runs the program in a process whose calls `inject.c` fails.
"""

import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import fault_worker
import injection
import program_helpers
import pytest

FOLDER = pathlib.Path(__file__).parent


class Worker:
  """A process that is told of cases and answers how the program bore them."""

  def __init__(self, folder: pathlib.Path, variables: dict[str, str]):
    self.expected = folder / "expected"
    self._errors = (folder / "errors").open("w+")
    path = os.pathsep.join(map(str, (program_helpers.ROOT, FOLDER.parent)))
    self._process = subprocess.Popen(
      [sys.executable, FOLDER / "fault_worker.py", folder],
      env=program_helpers.environment() | variables | {"PYTHONPATH": path},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
    )
    self.undisturbed = self._answer()
    assert self.undisturbed["code"] == 0, self.undisturbed["output"]

  def _answer(self) -> dict[str, Any]:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      self._errors.seek(0)
      raise AssertionError(f"the worker has ended: {self._errors.read()}")
    return json.loads(line)

  def ask(self, case: Any) -> dict[str, Any]:
    """The outcome of a case of `Control.arm`."""
    self._tell(case)
    return self._answer()

  def killed(self, step: int) -> list[dict[str, Any]]:
    """The outcomes of every so many moments of a kill."""
    self._tell({"kill": step})
    return list(iter(self._answer, {"end": True}))

  def _tell(self, case: Any) -> None:
    assert self._process.stdin is not None
    self._process.stdin.write(json.dumps(case) + "\n")
    self._process.stdin.flush()

  def close(self) -> None:
    """Ends the process."""
    self._process.kill()
    self._process.communicate()
    self._errors.close()


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
  found = injection.build(tmp_path_factory.mktemp("library"))
  if found is None:
    pytest.skip("no C compiler: cc is not there")
  return found


@pytest.fixture(scope="module")
def worker(variables, tmp_path_factory):
  made = Worker(tmp_path_factory.mktemp("worker"), variables)
  yield made
  made.close()


def case(calls, pattern="*", *, at, error, action=injection.FAIL):
  """The words of a case."""
  return {
    "calls": calls,
    "pattern": pattern,
    "at": at,
    "error": error,
    "action": action,
  }


@pytest.mark.parametrize(
  "words",
  [
    case(["write"], "tensorboard/*", at=1, error=errno.EIO),
    case(["rename"], "checkpoints/*", at=9, error=errno.EACCES),
    case(
      injection.CHANGING, at=200, error=errno.ENOSPC, action=injection.FAIL_FROM
    ),
  ],
)
def test_a_failing_call_is_told_and_nothing_is_lost(words, worker):
  """A sample of the tests below."""
  found = worker.ask(words)
  assert found["wrong"] == []
  assert (found["code"], found["fired"] > 0) == (1, True)


def kind_of(name: str) -> str:
  """A pattern of all files like one: `checkpoints/*/manifest.ocdbt*`."""
  first, *_, last = name.split("/")
  last = re.sub("[0-9a-f]{32}", "*", last)
  last = re.sub(r"(\.orbax-checkpoint-tmp|\.__lock|\d).*", "*", last)
  return last if first == name else f"{first}/*{last}"


@pytest.mark.faults
@pytest.mark.parametrize("code", ["ENOSPC", "EIO", "EACCES"])
def test_each_kind_of_call_on_each_kind_of_file(code, worker):
  """At its first, a middle and its last occurrence."""
  counts: dict[tuple[str, str], int] = {}
  for call, name in worker.undisturbed["calls"]:
    key = call, kind_of(name)
    counts[key] = counts.get(key, 0) + 1
  assert len(counts) > 50
  survived, wrong = 0, []
  for (call, pattern), count in counts.items():
    for at in sorted({1, (count + 1) // 2, count}):
      words = case([call], pattern, at=at, error=getattr(errno, code))
      found = worker.ask(words)
      survived += not found["wrong"]
      if found["wrong"]:
        wrong.append((words, found["wrong"]))
  print(f"{code}: {survived} survived, {len(wrong)} not")
  assert wrong == []


@pytest.mark.slow
def test_a_disk_that_is_full_from_any_call_on(worker):
  """Every changing call of a run, and all calls behind it."""
  survived, wrong, fired, at = 0, [], True, 0
  while fired:
    at += 1
    words = case(
      injection.CHANGING, at=at, error=errno.ENOSPC, action=injection.FAIL_FROM
    )
    found = worker.ask(words)
    fired = found["fired"]
    survived += not found["wrong"]
    if found["wrong"]:
      wrong.append((at, found["wrong"]))
  print(f"ENOSPC from call 1 to {at} on: {survived} survived")
  assert wrong == []


@pytest.mark.parametrize(
  "step",
  [
    pytest.param(1, marks=pytest.mark.slow),
    pytest.param(4, marks=pytest.mark.faults),
  ],
)
def test_killed_before_a_call_that_changes_the_workdir(step, worker):
  """The same command goes on from what each moment leaves."""
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
  """As above, and nothing of Python, JAX or Orbax holds the process."""
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
  with begun:
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
