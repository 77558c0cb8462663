"""How much memory a device can have."""

import os
import pathlib

import jax

# The limits of a container, of both versions of Linux's control groups.
_LIMITS = (
  "/sys/fs/cgroup/memory.max",
  "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def of_device(device: jax.Device) -> int | None:
  """Bytes that a device can hold; None where nobody says.

  Args:
    device: of this machine, or one to compile for only.

  Returns:
    What JAX may take of an accelerator; of a CPU, what its host or container
    has.
  """
  if device.platform != "cpu":
    try:
      return (device.memory_stats() or {}).get("bytes_limit")
    except (jax.errors.JaxRuntimeError, NotImplementedError, AttributeError):
      return None
  found = [int(x) for x in map(_read, _LIMITS) if x.isdecimal()]
  try:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (OSError, ValueError):  # of another system
    pages = -1
  return min((x for x in (*found, pages) if x > 0), default=None)


def _read(path: str) -> str:
  try:
    return pathlib.Path(path).read_text(encoding="utf-8").strip()
  except (OSError, ValueError):
    return ""
