"""The memory of devices."""

import os
import pathlib

import jax

# A container's limits in both versions of Linux control groups.
_LIMITS = (
  "/sys/fs/cgroup/memory.max",
  "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def of_device(device: jax.Device) -> int | None:
  """Returns a device's memory in bytes, or None if it is unknown.

  Args:
    device: a device of this machine, or one that is only compiled for.

  Returns:
    For an accelerator, the bytes that JAX may use; for a CPU, the memory of its
    host or container.
  """
  if device.platform != "cpu":
    try:
      return (device.memory_stats() or {}).get("bytes_limit")
    except (jax.errors.JaxRuntimeError, NotImplementedError, AttributeError):
      return None
  found = [int(x) for x in map(_read, _LIMITS) if x.isdecimal()]
  try:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (OSError, ValueError):  # not on this operating system
    pages = -1
  return min((x for x in (*found, pages) if x > 0), default=None)


def _read(path: str) -> str:
  try:
    return pathlib.Path(path).read_text(encoding="utf-8").strip()
  except (OSError, ValueError):
    return ""
