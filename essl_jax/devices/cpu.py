"""Settings for training on CPUs, to apply before JAX starts."""

import ctypes
import glob
import os
import platform

import jax
import jaxlib

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_LARGE_BLOCK = 128 * 1024  # bytes; glibc's initial default
_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
_ASYNCHRONOUS = "jax_cpu_enable_async_dispatch"
# Device files of NVIDIA and AMD GPUs, and of TPUs.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel[0-9]*", "vfio/[0-9]*", "dxg")


def tune() -> None:
  """Applies all settings that belong before JAX's first computation.

  Call `keep_memory` later.
  """
  choose_kernels()
  return_large_blocks()
  compute_in_callers_thread()


def keep_compiled() -> None:
  """Caches compiled programs in `~/.cache/essl_jax`, on all platforms.

  Does nothing if the environment or the program names another folder.
  """
  is_named = getattr(jax.config, "jax_compilation_cache_dir", None) is not None
  if is_named or "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  cache = os.path.join(os.path.expanduser("~"), ".cache", "essl_jax")
  if os.path.isabs(cache):  # there is a home directory
    jax.config.update("jax_compilation_cache_dir", cache)


def choose_kernels() -> None:
  """Limits YNNPACK to reductions, unless `XLA_FLAGS` sets its use.

  With YNNPACK, weight gradients of convolutions are half as fast. Affects only
  CPUs. XLA aborts on flags that it does not know, so this sets the flag only
  for versions known to have it.
  """
  version = tuple(int(part) for part in jaxlib.__version__.split(".")[:2])
  flags = os.environ.get("XLA_FLAGS", "")
  if version == (0, 10) and _YNNPACK not in flags:
    flag = f"--{_YNNPACK}=LIBRARY_FUSION_TYPE_REDUCE"
    os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def return_large_blocks() -> bool:
  """Returns large blocks to the system as soon as the process frees them.

  Otherwise glibc soon keeps them, and XLA's compilation leaves thousands of
  holes that each later allocation has to search. Steps took twice as long in a
  program that compiled them as in one that read them from a cache.

  Returns:
    Whether the setting was applied; see `keep_memory`.
  """
  return _set_allocator((_M_MMAP_THRESHOLD, _LARGE_BLOCK))


def keep_memory() -> bool:
  """Keeps memory that the process frees, from now on.

  XLA allocates and frees the memory of a step at every step. Without this
  setting, the system hands out and clears each page of a gigabyte every time.
  The process may use several times as much memory as a step. Call this after
  the step has been compiled (see `return_large_blocks`). It helps only
  computations in the main thread (see `compute_in_callers_thread`).

  Returns:
    Whether the setting was applied: this needs the GNU C library, no
    accelerator, and no settings in the environment (`MALLOC_*`,
    `GLIBC_TUNABLES`).
  """
  return _set_allocator((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))


def compute_in_callers_thread() -> bool:
  """Runs computations on a CPU in the caller's thread, not in a JAX thread.

  In other threads, malloc uses pieces of at most 64 MB and returns larger ones
  to the system at once, whatever `keep_memory` sets. Steps took a quarter
  longer.

  Returns:
    Whether the setting was applied: this needs a machine without accelerator,
    and no setting in the environment (`JAX_CPU_ENABLE_ASYNC_DISPATCH`).
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
  """Sets malloc's parameters, if glibc, devices and environment allow it."""
  wishes = os.environ.get("GLIBC_TUNABLES", "")
  if "glibc.malloc." in wishes or any(
    name.startswith("MALLOC_") for name in os.environ
  ):
    return False
  if platform.libc_ver()[0] != "glibc" or not _is_cpu_alone():
    return False
  mallopt = ctypes.CDLL(None).mallopt
  return all(mallopt(name, value) == 1 for name, value in choices)
