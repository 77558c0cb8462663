"""A sample of `tests/faults/test_fuzz_weights.py`, the same every time."""

import fuzz_weights_helpers as fuzz
import hypothesis
import pytest

few = hypothesis.settings(
  max_examples=15,
  derandomize=True,
  database=None,
  deadline=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.mark.parametrize("kind", fuzz.SUFFIXES)
def test_some_damaged_files(kind, tmp_path):
  path = tmp_path / f"a{fuzz.SUFFIXES[kind]}"
  fuzz.write(path, kind)
  content = path.read_bytes()

  @few
  @hypothesis.given(fuzz.CHANGES)
  def damage(changes):
    path.write_bytes(fuzz.damaged(content, changes))
    fuzz.check(path)

  with fuzz.little_memory():
    damage()


@pytest.mark.parametrize("kind", fuzz.MADE)
def test_some_made_headers(kind, tmp_path):
  suffix, write, headers = fuzz.MADE[kind]
  path = tmp_path / f"a{suffix}"

  @few
  @hypothesis.given(headers)
  def make(header):
    write(path, header)
    fuzz.check(path)

  with fuzz.little_memory():
    make()
