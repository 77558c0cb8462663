"""Runs programs that print one line of JSON; describes the machine."""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import shlex
import subprocess
from typing import Any

from essl_jax.errors import UsageError


def last_line(
  command: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
  """Runs a program and reads its last line.

  Args:
    command: the command line.
    environment: its environment variables; by default this process's.

  Returns:
    The last line that it prints, a JSON object.

  Raises:
    UsageError: it failed or printed something else; quotes its last error.
  """
  try:
    done = subprocess.run(
      command,
      capture_output=True,
      text=True,
      errors="replace",
      check=False,
      env=environment,
    )
  except OSError as error:
    raise UsageError(f"{command[0]} cannot be run: {error.strerror}") from error
  if done.returncode == 0:
    try:
      found = json.loads(done.stdout.strip().splitlines()[-1])
      if isinstance(found, dict):
        return found
    except (ValueError, IndexError):
      pass
  said = done.stderr.strip().splitlines() or ["it printed no JSON line"]
  raise UsageError(
    f"{shlex.join(command)} ended with exit code {done.returncode}: {said[-1]}"
  )


def host() -> dict[str, Any]:
  """Describes what a time depends on besides the device.

  Returns:
    `cpu`, the name of the CPU, `cores` that this process may use, and the
    `load_average` of the last minute, which is 0 on an idle machine.
  """
  path = pathlib.Path("/proc/cpuinfo")
  lines = path.read_text().splitlines() if path.exists() else []
  names = [x.partition(": ")[2] for x in lines if x.startswith("model name")]
  has_affinity = hasattr(os, "sched_getaffinity")
  return {
    "cpu": names[0] if names else None,
    "cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
    "load_average": round(os.getloadavg()[0], 1),
  }
