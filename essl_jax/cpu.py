"""How a program that trains on CPUs is set up, before JAX starts."""

import ctypes
import glob
import mmap
import os
import platform

import jaxlib

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_HUGE_PAGE = 2 << 20
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
  several times as much memory as a step. Where Linux
  offers huge pages to those who ask, half of the machine's memory may consist
  of them: the processor finds them faster.

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
  libc = ctypes.CDLL(None)
  # One arena: those of later threads are too small to hold a step's memory.
  choices = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
  is_kept = all(libc.mallopt(name, value) == 1 for name, value in choices)
  if is_kept:
    _ask_for_huge_pages(libc)
  return is_kept


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
  """Reserves addresses, not memory: a page is taken when it is first used."""
  size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
  libc.malloc.restype = ctypes.c_void_p
  address = libc.malloc(ctypes.c_size_t(size))
  if address is None:
    return  # the process may not have so much: it goes without
  first = -(-address // _HUGE_PAGE) * _HUGE_PAGE
  rest = (address + size - first) // _HUGE_PAGE * _HUGE_PAGE
  libc.madvise(
    ctypes.c_void_p(first), ctypes.c_size_t(rest), mmap.MADV_HUGEPAGE
  )
  libc.free(ctypes.c_void_p(address))  # what is free is kept, and its advice
