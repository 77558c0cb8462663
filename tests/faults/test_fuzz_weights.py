"""Thousands of damaged files of weights: one line, in time, little memory."""

import fuzz_settings
import fuzz_weights_helpers as fuzz
import pytest

pytestmark = pytest.mark.faults

many = fuzz_settings.many(1000)


@pytest.mark.parametrize("kind", fuzz.SUFFIXES)
def test_damaged_files(kind, tmp_path):
  fuzz.damage(kind, tmp_path, many)


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
  fuzz.make(kind, tmp_path, many)
