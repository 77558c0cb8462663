"""Flags that join processes, and comparisons of their settings."""

import json
import socket
import subprocess
import sys
import textwrap

import jax
import process_helpers
import program_helpers
import pytest

from essl_jax.devices import parallel, processes
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick

LAUNCHERS = ("SLURM_", "OMPI_", "JOB_COMPLETION_INDEX")
SLURM = {"SLURM_JOB_ID": "5000", "SLURM_NTASKS": "4", "SLURM_PROCID": "2"}
NOTHING = [None] * 4


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, False),
    (SLURM, False),  # a batch script: srun would start the tasks
    (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, False),  # a shell or notebook
    (SLURM | {"SLURM_STEP_NUM_TASKS": "4"}, True),
    ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # in every pod
    ({"JOB_COMPLETION_INDEX": "0"}, True),
  ],
)
def test_launchers_of_several_processes(environment, expected):
  assert processes.is_one_of_several(environment) is expected


@pytest.fixture
def joined(monkeypatch):
  """Records the arguments of JAX's calls, without joining processes."""
  calls = []
  for name in list(processes.os.environ):
    if name.startswith(LAUNCHERS):
      monkeypatch.delenv(name)
  monkeypatch.setattr(
    jax.distributed,
    "initialize",
    lambda *places, **others: calls.append((list(places), others)),
  )
  return calls


def test_alone_without_flags_and_launcher(joined, monkeypatch):
  processes.initialize()
  processes.initialize(distributed=False)
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
  processes.initialize(distributed=False)
  assert not joined


def test_flags_are_handed_to_jax(joined):
  processes.initialize(
    coordinator="10.0.0.1:1234",
    num_processes=2,
    process_id=1,
    local_device_ids=[0, 3],
    join_timeout=40.0,
    heartbeat_timeout=20,
  )
  ((places, others),) = joined
  assert places == ["10.0.0.1:1234", 2, 1, [0, 3]]
  assert others["heartbeat_timeout_seconds"] == 20
  assert others["initialization_timeout"] > 40  # our own line comes first


def test_the_rest_is_left_to_jax(joined, monkeypatch):
  processes.initialize(distributed=True)
  assert joined.pop()[0] == NOTHING
  processes.initialize(coordinator="first:1234")
  assert joined.pop()[0] == ["first:1234", None, None, None]
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
  processes.initialize()
  assert joined.pop()[0] == NOTHING


def test_a_tpu_may_belong_to_no_pod(joined, monkeypatch):
  tpu = jax.config.values | {"jax_platforms": "tpu,cpu"}
  monkeypatch.setattr(type(jax.config), "values", property(lambda _: tpu))
  processes.initialize()
  assert joined.pop()[0] == NOTHING

  def refuse(*_, **__):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", refuse)
  processes.initialize()
  with pytest.raises(UsageError, match="give --coordinator=HOST:PORT"):
    processes.initialize(distributed=True)


WRONG = """
  import json, sys
  from absl import flags
  from essl_jax import process_flags
  for case in json.loads(sys.argv[1]):
    for name in flags.FLAGS:
      flags.FLAGS[name].unparse()
    flags.FLAGS(["program", *case])
    try:
      process_flags.join()
    except ValueError as error:
      print(json.dumps([type(error).__name__, str(error)]))
"""


def test_what_is_wrong_with_the_flags():
  """JAX itself refuses some flags, in a process that has used no device."""
  together = "give --coordinator=HOST:PORT, --num_processes=N and --process_id"
  with socket.create_server(("", 0)) as used:
    at = f"--coordinator=localhost:{used.getsockname()[1]}"
    other = f"--coordinator={process_helpers.free_address()}"
    cases = [
      (["--distributed"], together),
      (["--coordinator=localhost:1"], together),
      (["--num_processes=2", "--process_id=0"], together),
      (["--local_device_ids=0"], together),
      ([at, "--num_processes=2", "--process_id=2"], "Got process_id=2, num_p"),
      ([at, "--num_processes=2", "--process_id=-1"], "Got process_id=-1"),
      ([other, "--num_processes=0", "--process_id=0"], "num_processes=0"),
      ([at, "--num_processes=2", "--process_id=0"], "cannot listen at the por"),
      (["--nodistributed", "--process_id=0"], "false runs a single process"),
      (["--coordinator=first"], "--coordinator=first is not HOST:PORT"),
      (["--coordinator=first:99999"], "is not HOST:PORT"),
      (["--local_device_ids=0,a"], "--local_device_ids=0,a are not numbers"),
    ]
    arguments = json.dumps([flags for flags, _ in cases])
    done = subprocess.run(
      [sys.executable, "-c", textwrap.dedent(WRONG), arguments],
      env=program_helpers.environment(),
      capture_output=True,
      text=True,
      timeout=60,
      check=False,
    )
  told = [json.loads(line) for line in done.stdout.splitlines()]
  assert len(told) == len(cases), done.stderr
  for (name, text), (flags, says) in zip(told, cases, strict=True):
    assert name == "UsageError" and says in text and "\n" not in text, flags
  assert not [x for x in done.stderr.splitlines() if "proxy" not in x]


@pytest.mark.parametrize(
  ("flags", "status", "says"),
  [
    (["--process_id=2"], 2, "Got process_id=2, num_processes=2"),
    (["--process_id=0", "--join_timeout=1"], 1, "timed out after 1 s"),
  ],
)
def test_the_program_ends_with_one_line(
  flags, status, says, config_file, tmp_path
):
  flags = [f"--coordinator={process_helpers.free_address()}", *flags]
  done = program_helpers.run(
    config_file, tmp_path / "run", "--num_processes=2", *flags
  )
  assert done.returncode == status, done.stderr
  (line,) = (x for x in done.stderr.splitlines() if "proxy" not in x)
  assert line.startswith("error: ") and says in line
  assert not (tmp_path / "run").exists()


@pytest.fixture
def answers(monkeypatch):
  """Fakes process 0 of 2; the list holds process 1's next answers."""
  said: list[dict] = []
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(parallel, "check_device_counts", lambda _: 2)
  monkeypatch.setattr(
    parallel, "gather_text", lambda text: [text, json.dumps(said.pop(0))]
  )
  return said


def test_differences_are_refused(answers):
  facts = {"seed": 0, "widths": (2, 3), "name": None}
  same = {"seed": "0", "widths": "[2, 3]", "name": "null"}
  answers.append({"facts": same, "problem": ""})
  processes.check_equal(facts)
  answers.append({"facts": same | {"seed": "1"}, "problem": ""})
  with pytest.raises(UsageError) as caught:
    processes.check_equal(facts)
  assert str(caught.value) == (
    "the processes were started differently: seed is 0 in process 0 and 1 in"
    " process 1: start all of them with the same command, code and data"
  )


def test_the_problem_of_another_process_is_told(answers):
  answers.append({"facts": {}, "problem": "no such data"})
  with (
    pytest.raises(UsageError, match="^process 1: no such data$"),
    processes.one_comparison() as agree,
  ):
    agree({"images": 3})
  assert not answers


def test_a_problem_is_told_to_the_others_once(answers):
  answers.append({"facts": {"images": "3"}, "problem": ""})
  with (
    pytest.raises(UsageError, match="^no such data$"),
    processes.one_comparison(),
  ):
    raise UsageError("no such data")
  assert not answers
  answers.append({"facts": {"images": "3"}, "problem": ""})
  with (
    pytest.raises(UsageError, match="^too late$"),
    processes.one_comparison() as agree,
  ):
    agree({"images": 3})
    raise UsageError("too late")  # no process waits to compare any more


def test_differences_are_named_with_their_processes():
  assert processes.describe_differences([{"seed": "0"}] * 3) == ""
  text = processes.describe_differences(
    [{"seed": "0", "k": "1"}, {"seed": "0"}, {"seed": "4", "k": "1"}]
  )
  assert "seed is 0 in process 0, 1 and 4 in process 2" in text
  assert "k is 1 in process 0, 2 and absent in process 1" in text
  many = processes.describe_differences([{"x": str(i % 2)} for i in range(16)])
  assert "0 in process 0, 2, 4 and 5 more and 1 in process 1" in many


def test_a_lost_process_is_told_from_other_errors(monkeypatch):
  lost = RuntimeError("UNKNOWN: Gloo AllGather failed:\n Connection closed")
  assert processes.describe_loss(lost) == ""  # a single process loses nobody
  monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
  assert "another process ended" in processes.describe_loss(lost)
  assert "\n" not in processes.describe_loss(lost)
  assert processes.describe_loss(ValueError("shapes differ")) == ""


@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "2 3"])
def test_a_launchers_count_that_is_no_number_is_refused(value):
  for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
    with pytest.raises(UsageError, match=f"{name}={value} .*unset it"):
      processes.is_one_of_several({name: value})
  assert not processes.is_one_of_several({"SLURM_STEP_NUM_TASKS": ""})
