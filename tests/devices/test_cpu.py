"""Settings of programs that train on CPUs."""

import os
import statistics
import subprocess
import sys
import types

import pytest

from essl_jax.devices import cpu


def test_the_environment_may_choose_the_allocator(monkeypatch):
  monkeypatch.setattr(cpu.glob, "glob", lambda _: [])
  monkeypatch.setattr(cpu.ctypes, "CDLL", lambda _: pytest.fail("was changed"))
  monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
  assert not cpu.keep_memory() and not cpu.return_large_blocks()
  monkeypatch.delenv("MALLOC_ARENA_MAX")
  monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
  assert not cpu.keep_memory() and not cpu.return_large_blocks()


@pytest.mark.parametrize(
  ("version", "before", "after"),
  [
    ("0.10.2", None, "--{}=LIBRARY_FUSION_TYPE_REDUCE"),
    ("0.10.2", "--a=1", "--a=1 --{}=LIBRARY_FUSION_TYPE_REDUCE"),
    ("0.10.2", "--{}=OTHER", "--{}=OTHER"),
    ("0.11.0", "--a=1", "--a=1"),
  ],
)
def test_kernels_are_chosen_where_the_flag_is_known(
  monkeypatch, version, before, after
):
  flag = "xla_cpu_experimental_ynn_fusion_type"
  monkeypatch.setattr(cpu.jaxlib, "__version__", version)
  monkeypatch.setenv("XLA_FLAGS", (before or "").format(flag))
  cpu.choose_kernels()
  assert cpu.os.environ["XLA_FLAGS"] == after.format(flag)


def test_memory_is_left_alone_beside_accelerators(monkeypatch):
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.setattr(cpu.glob, "glob", lambda _: ["/dev/nvidia0"])
  assert not cpu.keep_memory() and not cpu.return_large_blocks()
  assert not cpu.compute_in_callers_thread()


def test_memory_is_kept_only_once_a_step_is_compiled(monkeypatch):
  """Compilation would leave holes in kept memory; see `cpu`."""
  chosen = {}
  library = types.SimpleNamespace(
    mallopt=lambda name, value: chosen.setdefault(name, value) == value
  )
  monkeypatch.setattr(cpu.ctypes, "CDLL", lambda _: library)
  monkeypatch.setattr(cpu.platform, "libc_ver", lambda: ("glibc", "2.36"))
  monkeypatch.setattr(cpu.glob, "glob", lambda _: [])
  monkeypatch.setattr(cpu.os, "environ", {})
  monkeypatch.setattr(cpu, "compute_in_callers_thread", lambda: None)
  cpu.tune()
  assert chosen == {-3: 128 * 1024}  # M_MMAP_THRESHOLD
  assert cpu.keep_memory()
  assert chosen[-4] == 0  # M_MMAP_MAX
  assert chosen[-1] == -1  # M_TRIM_THRESHOLD


KEPT = """
import resource
import jax
import jax.numpy as jnp
from essl_jax.devices import cpu
cpu.tune()
step = jax.jit(lambda x: jnp.cumsum(jnp.sin(x))[::7].sum())
x = jnp.ones(20_000_000)  # 80 MB, and twice as much for a step to work with
jax.block_until_ready(step(x))
cpu.keep_memory()
faults = []
for _ in range(24):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  jax.block_until_ready(step(x))
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""


@pytest.mark.skipif(
  cpu.platform.libc_ver()[0] != "glibc", reason="needs the GNU C library"
)
def test_the_memory_of_a_step_is_used_again():
  """After the first step, the system hands out no new pages."""
  environment = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("MALLOC_", "GLIBC_", "JAX_CPU_"))
  } | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
  done = subprocess.run(
    [sys.executable, "-c", KEPT],
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  )
  first, *later = map(int, done.stdout.split())
  assert first > 10_000  # pages of 4 KiB
  # It may grow a few more times by chance; memory that is not kept always does.
  assert statistics.median(later) < 100
  assert sum(x >= 1_000 for x in later) <= 6  # of 23 steps
