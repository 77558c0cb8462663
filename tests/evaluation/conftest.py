"""Fixtures of the tests of transfer."""

import folder_helpers
import pytest
import transfer_helpers


@pytest.fixture(scope="module")
def transfer_folder(tmp_path_factory):
  """Images with a validation split of their own."""
  root = tmp_path_factory.mktemp("sets") / "bugs"
  return folder_helpers.write_folder(root, transfer_helpers.SPLITS)


@pytest.fixture(scope="module")
def transfer_bench():
  """Features are the colours of an image's quarters."""
  return transfer_helpers.make_bench()
