"""HDF5 files that declare gigabytes, or lead to other files."""

import os

import h5py
import numpy as np
import pytest

from essl_jax.errors import UsageError
from essl_jax.photonics import dataset, storage

pytestmark = pytest.mark.quick

CELLS = np.full((2, 8, 8), 3, np.float32)


def refusal(path, **more):
  """Returns the one-line message that refuses a file."""
  with pytest.raises(UsageError) as error:
    dataset.load(path, **more)
  assert "\n" not in str(error.value) and str(path) in str(error.value)
  return str(error.value)


def test_a_file_of_kilobytes_that_promises_gigabytes_is_refused(tmp_path):
  """Sizes are checked before memory is allocated."""
  path = tmp_path / "a.h5"
  with h5py.File(path, "w") as file:
    shape = (10**6, 512, 512)
    file.create_dataset("permittivity", shape, "f4", chunks=(1, 512, 512))
  assert path.stat().st_size < 10_000
  assert "take 1,048,576,000,000 bytes of memory" in refusal(path)


def test_the_memory_of_all_arrays_together_is_limited(tmp_path):
  """An array with many names counts every time it is read."""
  path = tmp_path / "a.h5"
  with h5py.File(path, "w") as file:
    group = file.create_group("unitcell/mpbepsimage")
    group["0"] = CELLS[0]
    for i in range(1, 50):
      group[str(i)] = group["0"]
  assert len(dataset.load(path, max_bytes=50 * 256).permittivity) == 50
  told = refusal(path, max_bytes=49 * 256)
  assert "config.data.max_bytes allows 12,544" in told


def test_small_arrays_in_enormous_chunks_are_refused(tmp_path):
  path = tmp_path / "a.h5"
  with h5py.File(path, "w") as file:
    chunks = (2**9, 2**10, 2**10)
    file.create_dataset(
      "permittivity", (2, 8, 8), "f4", chunks=chunks, maxshape=(None,) * 3
    )
  assert "bytes of memory or more" in refusal(path, max_bytes=2**30)


def test_other_files_are_not_read(tmp_path):
  """A link or an array could lead to a pipe or a device."""
  os.mkfifo(tmp_path / "pipe")
  for name in ("linked", "group", "soft", "kept", "virtual"):
    with h5py.File(tmp_path / f"{name}.h5", "w") as file:
      if name == "linked":
        file["permittivity"] = h5py.ExternalLink("pipe", "permittivity")
      elif name == "group":
        file["unitcell"] = h5py.ExternalLink("pipe", "unitcell")
      elif name == "soft":
        file["other"] = h5py.ExternalLink("pipe", "/")
        file["permittivity"] = h5py.SoftLink("/other/permittivity")
      elif name == "kept":
        where = [("/dev/zero", 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("permittivity", (2, 8, 8), "f4", external=where)
      else:
        layout = h5py.VirtualLayout((2, 8, 8), "f4")
        layout[:] = h5py.VirtualSource("pipe", "permittivity", (2, 8, 8))
        file.create_virtual_dataset("permittivity", layout)
    assert ": copy " in refusal(tmp_path / f"{name}.h5")


def test_cells_that_are_no_regular_file_are_refused(tmp_path):
  os.mkfifo(tmp_path / "a.h5")
  assert "not a regular file but a pipe" in refusal(tmp_path / "a.h5")
  os.mkfifo(tmp_path / storage.MANIFEST)
  with pytest.raises(UsageError, match="manifest.json is damaged"):
    storage.read_manifest(tmp_path)
