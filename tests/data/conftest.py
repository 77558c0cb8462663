"""Image folders for the tests of data."""

from folder_helpers import spoil_folder, write_folder
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Intact images."""
  return write_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture
def broken_folder(tmp_path):
  """Images of which some cannot be read."""
  return spoil_folder(tmp_path)
