"""Failing system calls: one line, soon; the next start is as undisturbed.

`fault_worker` runs the program in a process whose calls `inject.c` fails.
"""

import errno
import fnmatch
import re

import injection
import pytest


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
  """A pattern of all files like one, such as `checkpoints/*/_METADATA`."""
  name = re.sub("[0-9a-f]{32}", "*", name)  # arrays
  name = re.sub(r"\.\d+\.essl\.tmp$", ".*.tmp", name)
  name = re.sub("^tensorboard/.*", "tensorboard/*", name)
  name = re.sub(r"^checkpoints/\d", "checkpoints/[0-9]", name)
  return re.sub("^checkpoints/.*/", "checkpoints/*/", name)


@pytest.mark.faults
@pytest.mark.parametrize("code", ["ENOSPC", "EIO", "EACCES"])
def test_each_kind_of_call_on_each_kind_of_file(code, worker):
  """At its first, a middle and its last occurrence."""
  calls = worker.undisturbed["calls"]
  kinds = list(dict.fromkeys((call, kind_of(name)) for call, name in calls))
  assert len(kinds) > 60
  fired, wrong = 0, []
  for call, kind in kinds:
    count = sum(x == call and fnmatch.fnmatch(y, kind) for x, y in calls)
    for at in sorted({1, (count + 1) // 2, count}):
      words = case([call], kind, at=at, error=getattr(errno, code))
      found = worker.ask(words)
      fired += found["fired"]
      if found["wrong"]:
        wrong.append((words, found["wrong"]))
  print(f"{code}: {fired} calls of {len(kinds)} kinds, {len(wrong)} wrong")
  assert wrong == []


@pytest.mark.slow
def test_a_disk_that_is_full_from_any_call_on(worker):
  """Every changing call of a run, and all calls behind it."""
  wrong, fired, at = [], True, 0
  while fired:
    at += 1
    words = case(
      injection.CHANGING, at=at, error=errno.ENOSPC, action=injection.FAIL_FROM
    )
    found = worker.ask(words)
    fired = found["fired"]
    if found["wrong"]:
      wrong.append((at, found["wrong"]))
  print(f"ENOSPC from each of {at - 1} calls on, {len(wrong)} wrong")
  assert wrong == []
