"""Thousands of damaged images, arrays and cells: one line, and within 10 s."""

import faulthandler
import resource

import fuzz_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

pytestmark = pytest.mark.faults

_MEMORY = 2**31  # beyond what the process has when a test begins
many = settings(
  max_examples=3000,
  deadline=10_000,
  suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True, scope="module")
def bounded():
  """Ends a process that hangs; one that takes gigabytes gets an error."""
  old = resource.getrlimit(resource.RLIMIT_AS)
  with open("/proc/self/statm") as file:
    taken = int(file.read().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, old[1]))
  yield
  resource.setrlimit(resource.RLIMIT_AS, old)
  faulthandler.cancel_dump_traceback_later()


def in_time(check, *arguments):
  """Runs a check, and ends the process where it takes over 10 s."""
  faulthandler.dump_traceback_later(10, exit=True)
  check(*arguments)


@many
@given(st.sampled_from(fuzz_files.IMAGES).flatmap(fuzz_files.damaged))
def test_damaged_images_are_told(encoded):
  in_time(fuzz_files.check_image, encoded)


@many
@given(fuzz_files.pngs())
def test_images_with_any_header_are_told(encoded):
  in_time(fuzz_files.check_image, encoded)


@many
@given(content=fuzz_files.damaged(fuzz_files.ARRAYS))
def test_damaged_arrays_are_told(tmp_path, content):
  in_time(fuzz_files.check_arrays, tmp_path / "a.npz", content)


@many
@given(content=fuzz_files.npzs())
def test_arrays_with_any_header_are_told(tmp_path, content):
  in_time(fuzz_files.check_arrays, tmp_path / "a.npz", content)


@many
@given(content=fuzz_files.damaged(fuzz_files.CELLS))
def test_damaged_cells_are_told(tmp_path, content):
  in_time(fuzz_files.check_cells, tmp_path / "a.h5", content)
