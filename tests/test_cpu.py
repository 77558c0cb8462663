"""How a program that trains on CPUs is set up."""

import types

import pytest

from essl_jax import cpu


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


def test_memory_is_kept_only_once_a_step_is_compiled(monkeypatch):
  """Before, compilation would leave holes in it; see `cpu`."""
  chosen = {}
  library = types.SimpleNamespace(
    mallopt=lambda name, value: chosen.setdefault(name, value) == value
  )
  monkeypatch.setattr(cpu.ctypes, "CDLL", lambda _: library)
  monkeypatch.setattr(cpu.platform, "libc_ver", lambda: ("glibc", "2.36"))
  monkeypatch.setattr(cpu.glob, "glob", lambda _: [])
  monkeypatch.setattr(cpu.os, "environ", {})
  cpu.tune()
  assert chosen == {-3: 128 * 1024}  # M_MMAP_THRESHOLD
  assert cpu.keep_memory()
  assert chosen[-4] == 0  # M_MMAP_MAX
  assert chosen[-1] == -1  # M_TRIM_THRESHOLD
