"""A fixed sample of the damaged files of `tests/faults/test_fuzz_data.py`."""

import fuzz_files
import fuzz_settings
from hypothesis import given
from hypothesis import strategies as st

few = fuzz_settings.few(40)


@few
@given(
  st.sampled_from(fuzz_files.IMAGES).flatmap(fuzz_files.damaged)
  | fuzz_files.pngs()
)
def test_damaged_images_are_told(encoded):
  """Gives an image or one line; no traceback, hang or gigabytes."""
  fuzz_files.check_image(encoded)


@few
@given(content=fuzz_files.damaged(fuzz_files.ARRAYS) | fuzz_files.npzs())
def test_damaged_arrays_are_told(tmp_path, content):
  fuzz_files.check_arrays(tmp_path / "a.npz", content)


@few
@given(content=fuzz_files.damaged(fuzz_files.CELLS))
def test_damaged_cells_are_told(tmp_path, content):
  fuzz_files.check_cells(tmp_path / "a.h5", content)
