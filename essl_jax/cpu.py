"""How a program that trains on CPUs is set up, before JAX starts."""

import ctypes
import glob
import os
import platform

import jaxlib

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
# Of NVIDIA's and AMD's GPUs, and of TPUs.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel[0-9]*", "vfio/[0-9]*", "dxg")


def tune() -> None:
  """Does all of this file; to be called before JAX's first computation."""
  choose_kernels()
  keep_memory()


def choose_kernels() -> None:
  """Keeps YNNPACK to reductions, unless `XLA_FLAGS` says what it may do.

  Its weight gradients of convolutions are half as fast. Affects CPUs only.
  XLA ends a program that sets a flag it does not know, so only versions known
  to have it are tuned.
  """
  version = tuple(int(part) for part in jaxlib.__version__.split(".")[:2])
  flags = os.environ.get("XLA_FLAGS", "")
  if version == (0, 10) and _YNNPACK not in flags:
    flag = f"--{_YNNPACK}=LIBRARY_FUSION_TYPE_REDUCE"
    os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def keep_memory() -> bool:
  """Lets the process keep what it frees, on machines without accelerators.

  XLA allocates and frees what a step needs at every step, and the system then
  hands out and clears each page of a gigabyte anew. The process may take
  several times as much memory as a step.

  Returns:
    Whether it was done: with the GNU C library, no accelerator in sight, and
    no other wishes in the environment (`MALLOC_*`, `GLIBC_TUNABLES`).
  """
  wishes = os.environ.get("GLIBC_TUNABLES", "")
  if "glibc.malloc." in wishes or any(
    name.startswith("MALLOC_") for name in os.environ
  ):
    return False
  is_cpu = os.environ.get("JAX_PLATFORMS") == "cpu"
  found = [x for name in _ACCELERATORS for x in glob.glob(f"/dev/{name}")]
  if platform.libc_ver()[0] != "glibc" or (found and not is_cpu):
    return False
  mallopt = ctypes.CDLL(None).mallopt
  # One arena: those of later threads are too small to hold a step's memory.
  choices = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
  return all(mallopt(name, value) == 1 for name, value in choices)
