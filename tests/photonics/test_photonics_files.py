"""Files of unit cells: ours, the original ones, and wrong ones."""

from data_helpers import open_source
import h5py
import numpy as np
import pytest

from essl_jax.errors import UsageError
from essl_jax.photonics import cells, dataset


def _original(path, cells_, densities, missing=()):
  with h5py.File(path, "w") as file:
    for i, cell in enumerate(cells_):
      file[f"unitcell/mpbepsimage/{i + 1}"] = cell
      file[f"unitcell/epsavg/{i + 1}"] = cell.mean()
      if i not in missing:
        file[f"mpbcal/DOS/{i + 1}"] = densities[i]
  return path


def test_the_originals_files_are_read(tmp_path):
  made = np.stack([cells.make("gpm", 0, "test", i) for i in range(12)])
  densities = np.arange(12 * 500, dtype=np.float64).reshape(12, 500)
  path = _original(tmp_path / "a.h5", made, densities)
  found = dataset.load(path)
  np.testing.assert_array_equal(found.permittivity, made)  # 10 after 9
  np.testing.assert_array_equal(found.density_of_states, densities)


def test_the_originals_files_are_trained_on(tmp_path):
  for number, split in enumerate(cells.SPLITS):
    made = np.stack([cells.make("gpm", 0, split, i) for i in range(number + 2)])
    labels = np.full((len(made), 500), number)
    is_bare = split == "unlabelled"
    missing = range(len(made)) if is_bare else ()
    _original(tmp_path / f"{split}.h5", made, labels, missing)
  source = open_source(
    "photonics",
    dir=str(tmp_path),
    train_split="unlabelled",
    test_split="test",
  )
  assert source.num_examples("train") == 2 and source.made == {}
  assert [len(x) for x in source.labelled.values()] == [3, 4, 5]
  np.testing.assert_array_equal(source.labelled["test"].density, 3)


def test_wrong_files_are_told_in_one_line(tmp_path):
  made = np.stack([cells.make("gpm", 0, "test", i) for i in range(3)])
  path = _original(tmp_path / "a.h5", made, np.ones((3, 500)), missing=(1,))
  whole = _original(tmp_path / "whole.h5", made, np.ones((3, 500)))
  short = tmp_path / "short.h5"
  short.write_bytes(whole.read_bytes()[:5000])
  (tmp_path / "text.h5").write_text("no HDF5")
  with h5py.File(tmp_path / "other.h5", "w") as file:
    file["x"] = 1
  with h5py.File(tmp_path / "scaled.h5", "w") as file:
    file["permittivity"] = np.zeros((2, 32, 32))
  wrong = {
    path: "lacks 1 of 3 densities, the first of them mpbcal/DOS/2",
    short: "damaged or truncated",
    tmp_path / "text.h5": "is not an HDF5 file",
    tmp_path / "other.h5": "needs permittivity or unitcell.*, but holds x",
    tmp_path / "scaled.h5": "cell 0 must be 1 to 20, got 0 to 0",
    tmp_path / "none.h5": "does not exist",
  }
  for source, message in wrong.items():
    with pytest.raises(UsageError, match=message) as caught:
      dataset.load(source)
    assert "\n" not in str(caught.value)
  with pytest.raises(UsageError, match="one of unlabelled.*got 'tests'"):
    dataset.load(tmp_path, "tests")
  with pytest.raises(UsageError, match="holds no test.h5"):
    dataset.load(tmp_path, "test")
  with pytest.raises(UsageError, match="is a directory: give split=, one of"):
    dataset.load(tmp_path)


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("unitcell/epsavg/2", 1.5, "epsavg/2 is 1.5, but the mean of unitcell/mpb"),
    ("mpbcal/DOS/4", np.ones(500), "holds 1 densities without .*mpbcal/DOS/4"),
    ("mpbcal/DOS/2", -np.ones(500), "cell 2 must be 0 or more, got -1 to -1"),
    ("mpbcal/DOS/2", np.full(500, np.nan), "of cell 2 is not finite"),
    ("mpbcal/DOS/3", np.ones(400), r"DOS/3 is \[400\], but mpbcal/DOS/1 is"),
    ("mpbcal/DOS/3/x", 1, "mpbcal/DOS/3 is a group, not an array"),
    ("mpbcal/DOS", np.ones((3, 500)), "mpbcal/DOS is an array, not a group"),
    ("mpbcal/DOS/2", "a", "mpbcal/DOS/2 is object, not real numbers"),
    ("unitcell/mpbepsimage/2", np.ones((8, 8)), r"/2 is \[8, 8\], but unitcel"),
    ("unitcell/mpbepsimage/a", 1, "image/a: names of cells must be numbers"),
    ("permittivity/1", 1, "permittivity is a group, not an array"),
  ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, name, value, message):
  made = np.stack([cells.make("gpm", 0, "test", i) for i in range(3)])
  path = _original(tmp_path / "a.h5", made, np.ones((3, 500)))
  with h5py.File(path, "a") as file:
    for replaced in (name, name.removesuffix("/x")):
      if replaced in file:
        del file[replaced]
    file[name] = value
  with pytest.raises(UsageError, match=message) as caught:
    dataset.load(path)
  assert "\n" not in str(caught.value)
