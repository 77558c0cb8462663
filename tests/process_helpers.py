"""Starts the program as one or several real processes."""

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import textwrap
import time
from typing import Any

import program_helpers
import xla_flags

from essl_jax import config as config_lib
from essl_jax.storage import metrics

CONFIG = """
import json
import ml_collections

def get_config():
  return ml_collections.ConfigDict(json.loads({!r}))
"""
# The signal a process sends itself, and time for the others to be told.
DISTURBED = """
  import os, signal, time
  from essl_jax.storage import checkpoint
  from essl_jax.storage import preemption

  name, at, victim = os.environ["TEST_SIGNAL"].split()
  reached = preemption.Preemption.reached

  def disturbed(self):
    # Who is to be killed and to resume has a checkpoint, written meanwhile.
    is_time = self.moment + 1 == int(at)
    if name == "SIGKILL":
      is_time = checkpoint.exists(os.environ["TEST_RUN"])
    if is_time and f"--process_id={victim}" in os.sys.argv:
      os.kill(os.getpid(), signal.Signals[name])
    time.sleep(0.6)
    return reached(self)

  preemption.Preemption.reached = disturbed
"""
# Seconds until JAX ends the others of a process that hangs.
HEARTBEAT = {index: ["--heartbeat_timeout=10"] for index in range(2)}


def make_config(tiny_config: Any) -> str:
  """Makes a config, as JSON, that two processes train in seconds.

  SimCLR: its negatives are gathered from the other process too. No colour,
  which would double the compilation. At a tenth of the learning rate rounding
  errors do not grow: the gradient's norm begins at 45.
  """
  plain = {"size": 16, "jitter_probability": 0.0, "grayscale": 0.0}
  made = tiny_config(
    "simclr",
    data={"train_split": "train[:64]", "test_split": "test[:40]"},
    views={"first": plain, "second": plain, "third": plain | {"size": 8}},
    optimizer={"learning_rate": 0.003},
    probe={
      "protocol": "paper",
      "epochs": 2,
      "batch_size": 16,
      "repetitions": 1,
    },
  )
  return json.dumps(config_lib.to_dict(made))


@dataclasses.dataclass
class Finished:
  """What processes left: files, exit statuses, lines printed, errors."""

  workdir: pathlib.Path
  statuses: list[int | None]
  printed: list[list[str]]
  errors: list[str]

  def history(self) -> dict[int, dict[str, float]]:
    """What was logged, by step."""
    history: dict[int, dict[str, float]] = {}
    for record in metrics.read(self.workdir):
      figures = history.setdefault(record["step"], {})
      assert figures.keys() & record.keys() <= {"step", "wall_time"}
      figures |= record
    return history

  def told(self, index: int) -> list[str]:
    """What a process said was wrong; not what the runtime says of signals."""
    lines = self.errors[index].splitlines()
    return [line for line in lines if "preemption_notifier" not in line]

  def results(self) -> dict[str, Any]:
    """The one `results.json`."""
    (path,) = self.workdir.rglob("results.json*")
    return json.loads(path.read_text())


_GLOO = re.compile(r"\[Gloo\]|connected peer ranks|^\d+$")


def free_address() -> str:
  """HOST:PORT that nobody uses just now."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"


def run(
  folder: pathlib.Path,
  config: str,
  count: int,
  *,
  devices: int = 4,
  disturb: str = "",
  flags: dict[int, list[str]] | None = None,
  directories: Sequence[pathlib.Path] | None = None,
  changes: str = "",
  variables: Sequence[dict[str, str]] | None = None,
  seconds: float = 240,
) -> Finished:
  """One run of the program on `folder / "run"`.

  Args:
    folder: for the run, its output and its config file.
    config: JSON.
    count: of processes.
    devices: of all of them together.
    disturb: "SIGNAL MOMENT PROCESS", which that process sends itself when it
      has asked so many times whether to stop; SIGKILL as soon as there is a
      checkpoint.
    flags: more of them, by process.
    directories: in which each process starts; this one's if absent.
    changes: code that the last process runs before the program.
    variables: of a launcher, by process, in place of the flags; JAX takes the
      port from `JAX_COORDINATOR_PORT`.
    seconds: after which what still runs is killed.

  Returns:
    What the processes left; a status of None stands for one that was killed.
  """
  environment = program_helpers.environment(devices // count) | {
    "TEST_SIGNAL": disturb,
    "TEST_RUN": str(folder / "run"),
  }
  file, address = folder / "config.py", free_address()
  environment["JAX_COORDINATOR_PORT"] = address.rpartition(":")[2]
  file.write_text(CONFIG.format(config))
  code = textwrap.dedent(DISTURBED) if disturb else ""
  code += "from essl_jax import main\nmain.run()\n"
  processes = []
  for index in range(count):
    changed = textwrap.dedent(changes) if index == count - 1 else ""
    command = [sys.executable, "-c", changed + code, f"--config={file}"]
    command += [f"--workdir={folder / 'run'}"]
    if not variables:
      command += [f"--coordinator={address}", f"--num_processes={count}"]
      command += [f"--process_id={index}"]
    command += (flags or {}).get(index, [])
    # Files, for nobody reads the pipes while two processes wait in turn.
    with (
      (folder / f"{index}.out").open("w") as output,
      (folder / f"{index}.err").open("w") as errors,
    ):
      processes.append(
        subprocess.Popen(
          command,
          env=environment | (variables[index] if variables else {}),
          stdout=output,
          stderr=errors,
          cwd=directories[index] if directories else None,
        )
      )
  watched = list(processes)
  if disturb.startswith("SIGSTOP"):
    del watched[int(disturb.split()[2])]  # it never ends
  deadline = time.monotonic() + seconds
  while any(x.poll() is None for x in watched):
    if time.monotonic() > deadline:
      break
    time.sleep(0.1)
  statuses = [process.poll() for process in processes]
  for process in processes:
    process.kill()
    process.wait()
  outputs = [(folder / f"{i}.out").read_text() for i in range(count)]
  return Finished(
    folder / "run",
    statuses,
    # Gloo itself reports its connections on the standard output, several at
    # once, which may cut a line in two.
    [
      [line for line in text.splitlines() if not _GLOO.search(line)]
      for text in outputs
    ],
    [(folder / f"{i}.err").read_text() for i in range(count)],
  )


def run_code(code: str, *arguments: str, seconds: float = 240) -> None:
  """Runs code in two processes of two devices each.

  Args:
    code: gets the coordinator's address, the process's number and `arguments`
      as `sys.argv[1:]`.
    *arguments: for the code.
    seconds: after which what still runs is killed.

  Raises:
    AssertionError: a process did not end well; quotes its errors.
  """
  root = program_helpers.ROOT
  environment = os.environ | {
    "XLA_FLAGS": xla_flags.make(devices=2),
    "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]),
  }
  address = free_address()
  processes = [
    subprocess.Popen(
      [
        sys.executable,
        "-c",
        textwrap.dedent(code),
        address,
        str(i),
        *arguments,
      ],
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    errors = [x.communicate(timeout=seconds)[1] for x in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [0, 0], errors
