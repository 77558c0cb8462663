"""Thousands of damaged files of weights: one line, in time, little memory."""

import fuzz_weights_helpers as fuzz
import hypothesis
import pytest

pytestmark = pytest.mark.faults

many = hypothesis.settings(
  max_examples=1000,
  deadline=None,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.mark.parametrize("kind", fuzz.SUFFIXES)
def test_damaged_files(kind, tmp_path):
  path = tmp_path / f"a{fuzz.SUFFIXES[kind]}"
  fuzz.write(path, kind)
  fuzz.check(path)
  content = path.read_bytes()

  @many
  @hypothesis.given(fuzz.CHANGES)
  def damage(changes):
    path.write_bytes(fuzz.damaged(content, changes))
    fuzz.check(path)

  with fuzz.little_memory():
    damage()


@pytest.mark.parametrize("kind", fuzz.SUFFIXES)
def test_cut_files(kind, tmp_path):
  """At every place of the headers, and at many of the arrays."""
  path = tmp_path / f"a{fuzz.SUFFIXES[kind]}"
  fuzz.write(path, kind)
  content = path.read_bytes()
  dense = {*range(400), *range(len(content) - 400, len(content))}
  for length in sorted(dense | set(range(0, len(content), 997))):
    path.write_bytes(content[:length])
    fuzz.check(path)


@pytest.mark.parametrize("kind", fuzz.MADE)
def test_made_headers(kind, tmp_path):
  suffix, write, headers = fuzz.MADE[kind]
  path = tmp_path / f"a{suffix}"

  @many
  @hypothesis.given(headers)
  def make(header):
    write(path, header)
    fuzz.check(path)

  with fuzz.little_memory():
    make()
