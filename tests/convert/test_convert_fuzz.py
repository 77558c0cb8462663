"""A sample of `tests/faults/test_fuzz_weights.py`, the same every time."""

import fuzz_settings
import fuzz_weights_helpers as fuzz
import pytest

few = fuzz_settings.few(15)


@pytest.mark.parametrize("kind", fuzz.SUFFIXES)
def test_some_damaged_files(kind, tmp_path):
  fuzz.damage(kind, tmp_path, few)


@pytest.mark.parametrize("kind", fuzz.MADE)
def test_some_made_headers(kind, tmp_path):
  fuzz.make(kind, tmp_path, few)
