"""Settings for training on CPUs, made before JAX starts."""

import ctypes
import glob
import os
import platform

import jax
import jaxlib

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_LARGE_BLOCK = 128 * 1024  # bytes; glibc's own to begin with
_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
_ASYNCHRONOUS = "jax_cpu_enable_async_dispatch"
# Of NVIDIA's and AMD's GPUs, and of TPUs.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel[0-9]*", "vfio/[0-9]*", "dxg")


def tune() -> None:
  """Sets up what can be before JAX's first computation.

  `keep_memory` is for later.
  """
  choose_kernels()
  return_large_blocks()
  compute_in_callers_thread()


def keep_compiled() -> None:
  """Keeps compiled programs in `~/.cache/essl_jax`, for all platforms.

  Not where the environment or the program names another folder.
  """
  is_named = getattr(jax.config, "jax_compilation_cache_dir", None) is not None
  if is_named or "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  cache = os.path.join(os.path.expanduser("~"), ".cache", "essl_jax")
  if os.path.isabs(cache):  # there is a home
    jax.config.update("jax_compilation_cache_dir", cache)


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


def return_large_blocks() -> bool:
  """Lets the process give large blocks back to the system as it frees them.

  Otherwise glibc soon keeps them, and a compilation of XLA leaves thousands of
  holes, among which each later allocation searches for its place: the steps of
  a program that compiled them took twice as long as those of one that read them
  from a cache.

  Returns:
    Whether it was done; see `keep_memory`.
  """
  return _set_allocator((_M_MMAP_THRESHOLD, _LARGE_BLOCK))


def keep_memory() -> bool:
  """Lets the process keep what it frees, from now on.

  XLA allocates and frees what a step needs at every step, and the system then
  hands out and clears each page of a gigabyte anew. The process may take
  several times as much memory as a step. To be called after the step has been
  compiled (see `return_large_blocks`), and of use to computations of the main
  thread alone (see `compute_in_callers_thread`).

  Returns:
    Whether it was done: with the GNU C library, no accelerator in sight, and
    no other wishes in the environment (`MALLOC_*`, `GLIBC_TUNABLES`).
  """
  return _set_allocator((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))


def compute_in_callers_thread() -> bool:
  """Lets a computation on a CPU run where it is called, not in a thread of JAX.

  What malloc gives to other threads lies in pieces of at most 64 MB and,
  where it is larger, goes back to the system at once, whatever `keep_memory`
  asks for: steps took a quarter longer.

  Returns:
    Whether it was done: with no accelerator in sight, and no other wish in the
    environment (`JAX_CPU_ENABLE_ASYNC_DISPATCH`).
  """
  if _ASYNCHRONOUS.upper() in os.environ or not _is_cpu_alone():
    return False
  jax.config.update(_ASYNCHRONOUS, False)
  return True


def _is_cpu_alone() -> bool:
  if os.environ.get("JAX_PLATFORMS") == "cpu":
    return True
  return not any(glob.glob(f"/dev/{name}") for name in _ACCELERATORS)


def _set_allocator(*choices: tuple[int, int]) -> bool:
  """Sets parameters of malloc, unless that is for others to do."""
  wishes = os.environ.get("GLIBC_TUNABLES", "")
  if "glibc.malloc." in wishes or any(
    name.startswith("MALLOC_") for name in os.environ
  ):
    return False
  if platform.libc_ver()[0] != "glibc" or not _is_cpu_alone():
    return False
  mallopt = ctypes.CDLL(None).mallopt
  return all(mallopt(name, value) == 1 for name, value in choices)
