"""Runs programs that print one line of JSON."""

from collections.abc import Mapping, Sequence
import json
import shlex
import subprocess
from typing import Any

from essl_jax.errors import UsageError


def last_line(
  command: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
  """Runs a program.

  Args:
    command: its words.
    environment: its variables; this process's when absent.

  Returns:
    The last line that it prints, read as JSON.

  Raises:
    UsageError: it failed or printed something else; quotes its last error.
  """
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, check=False, env=environment
    )
  except OSError as error:
    raise UsageError(f"{command[0]} cannot be run: {error.strerror}") from error
  if done.returncode == 0:
    try:
      return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
      pass
  said = done.stderr.strip().splitlines() or ["it printed no line of JSON"]
  raise UsageError(
    f"{shlex.join(command)} ended with exit code {done.returncode}: {said[-1]}"
  )
