"""The process in which `fault_worker` runs, and its disturbances."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import injection
import program_helpers
import pytest

FOLDER = pathlib.Path(__file__).parent


class Worker:
  """A process that gets cases and answers how the program handled them."""

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
