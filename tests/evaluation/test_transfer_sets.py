"""Transfer: available and missing sets, paths, names, splits, reading."""

import shutil

import folder_helpers
import numpy as np
from PIL import Image
import pytest
import transfer_helpers
from transfer_helpers import SIZE, SPLITS

from essl_jax import config as config_lib
from essl_jax import data
from essl_jax.data import prepared
from essl_jax.errors import UsageError
from essl_jax.evaluation import transfer, transfer_sets


def test_sets_at_hand_and_not(transfer_folder, tmp_path):
  shelf = transfer_sets.Shelf(None, SIZE)
  no_test = folder_helpers.write_folder(tmp_path / "two", SPLITS[:2])
  missing = str(tmp_path / "missing.npz")
  names = (str(transfer_folder), "digits", str(no_test), missing)
  found, left_out = shelf.find(names)
  assert list(found) == [str(transfer_folder), "digits", str(no_test)]
  assert list(left_out) == [missing] and "missing.npz" in left_out[missing]
  own, digits, two = found.values()
  assert own.splits == {"train": "train", "validation": "val", "test": "test"}
  assert own.sizes == [3, 20, 11, 9]
  assert digits.validation is None and digits.sizes == [10, 1438, 359]
  assert two.splits == {"train": "train", "validation": None, "test": "val"}
  assert two.sizes == [3, 20, 9]


def test_a_split_that_does_not_fit_is_not_passed_over(
  transfer_folder, tmp_path
):
  """Its test images have a class that the training images lack."""
  odd = tmp_path / "odd"
  shutil.copytree(transfer_folder, odd)
  new = odd / "test" / "zebra"
  shutil.copytree(next((odd / "test").iterdir()), new)
  found, left_out = transfer_sets.Shelf(None, SIZE).find([str(odd)])
  assert not found and "zebra" in left_out[str(odd)]


def test_images_are_read_as_those_of_the_run(tmp_path, monkeypatch):
  """With the run's levels, limits and memory for arrays."""
  root = folder_helpers.write_folder(tmp_path / "wide", SPLITS)
  name = str(root)
  image = np.full((9, 9), 2000, np.uint16)
  for path in root.rglob("*.png"):
    Image.fromarray(image).save(path)
  options = {"name": "digits"}
  shelf = lambda **more: transfer_sets.Shelf(
    None, SIZE, config_lib.Data(**options | more)
  )
  _, left_out = shelf().find([name])
  assert "config.data.white_level" in left_out[name]
  images = shelf(white_level=4000.0).open(name)
  (batch,) = images.source.evaluation_batches("test", 11)
  assert abs(batch["image"].astype(int) - 127).max() <= 1
  _, left_out = shelf(white_level=4000.0, max_pixels=80).find([name])
  assert "none of the 20 train images can be read" in left_out[name]
  arrays = {x: np.zeros((9, 4, 4), np.uint8) for x in ("train", "test")}
  arrays = {f"{x}_images": each for x, each in arrays.items()}
  labels = {f"{x}_labels": np.arange(9) % 2 for x in ("train", "test")}
  path = tmp_path / "set.npz"
  np.savez(path, **arrays, **labels)
  assert shelf().open(str(path)).source.num_classes == 2
  _, left_out = shelf(max_bytes=100).find([str(path)])
  assert "config.data.max_bytes allows 100" in left_out[str(path)]
  opened = []
  real = data.open_source
  monkeypatch.setattr(
    data, "open_source", lambda x: opened.append(x) or real(x)
  )
  shelf(cache_gib=0.5).open("digits")
  assert {x.cache_gib for x in opened} == {0.5}


def test_sets_of_tfds_are_not_downloaded(monkeypatch):
  asked = []

  def refuse(name, data_dir, *, prepare=True):
    asked.append((name, data_dir, prepare))
    raise UsageError(f"data set {name!r} is not prepared")

  monkeypatch.setattr(prepared, "open_builder", refuse)
  found, left_out = transfer_sets.Shelf("there", SIZE).find(["dtd"])
  assert not found and left_out == {"dtd": "data set 'dtd' is not prepared"}
  assert asked == [("dtd", "there", False)]


@pytest.mark.parametrize(
  ("name", "kind", "where"),
  [
    ("sets/birds", "folder", "{cwd}/sets/birds"),
    ("~/birds", "folder", "{home}/birds"),
    ("./birds/", "folder", "{cwd}/birds"),
    ("/nowhere/birds", "folder", "/nowhere/birds"),
    ("birds.npz", "file", "{cwd}/birds.npz"),
    ("~/birds.npz", "file", "{home}/birds.npz"),
  ],
)
def test_paths_at_which_nothing_is_are_refused(
  name, kind, where, transfer_bench, tmp_path, monkeypatch
):
  """Before training; after it the other sets are measured."""
  home, cwd = (tmp_path / x for x in ("home", "cwd"))
  for path in (home, cwd):
    path.mkdir()
  monkeypatch.setenv("HOME", str(home))
  monkeypatch.chdir(cwd)
  unknown = transfer_helpers.refuse(
    prepared.UnknownSetError, "is unknown to TFDS"
  )
  monkeypatch.setattr(prepared, "open_builder", unknown)
  with pytest.raises(UsageError) as error:
    transfer.Transfer(sets=("digits", name)).check(transfer_bench)
  where = where.format(cwd=cwd, home=home)
  expected = f"config.transfer.sets names {name}, and there is no {kind}"
  assert str(error.value).startswith(f"{expected} {where}: give a folder of")
  found, left_out = transfer_sets.Shelf(None, SIZE).find(["digits", name])
  assert list(found) == ["digits"] and left_out == {name: str(error.value)}


def test_home_is_understood(transfer_folder, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(transfer_folder.parent))
  images, labels = np.zeros((4, 4, 4), np.uint8), np.arange(4) % 2
  arrays = {"images": images, "labels": labels}
  both = {f"{x}_{k}": v for x in ("train", "test") for k, v in arrays.items()}
  np.savez(transfer_folder.parent / "set.npz", **both)
  names = [f"~/{transfer_folder.name}", "~/set.npz"]
  found, left_out = transfer_sets.Shelf(None, SIZE).find(names)
  assert list(found) == names and not left_out


def test_names_of_tfds_that_are_not_at_hand_are_left_out(
  transfer_bench, tmp_path, monkeypatch, capsys
):
  """Also with a slash, and where TFDS knows no such name."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "birds").mkdir()
  measure = transfer.Transfer(sets=("digits", "birds", "imagenet_v2/topimages"))
  refuse = transfer_helpers.refuse(UsageError, "is not prepared in there")
  monkeypatch.setattr(prepared, "open_builder", refuse)
  measure.check(transfer_bench)
  told = capsys.readouterr().err.splitlines()
  start = "essl_jax: transfer leaves out"
  assert told == [
    f"{start} birds: 'birds' is not prepared in there; the folder of that name"
    " is ./birds",
    f"{start} imagenet_v2/topimages: 'imagenet_v2/topimages' is not prepared in"
    " there",
  ]
  unknown = transfer_helpers.refuse(
    prepared.UnknownSetError, "is unknown to TFDS"
  )
  monkeypatch.setattr(prepared, "open_builder", unknown)
  transfer.Transfer(sets=("digits", "birdz")).check(transfer_bench)
  assert "birdz: 'birdz' is unknown to TFDS" in capsys.readouterr().err


def test_splits_that_a_set_lacks_are_said(tmp_path):
  sizes = (("training", 9, 0), ("testing", 9, 50))
  name = str(folder_helpers.write_folder(tmp_path / "odd", sizes))
  _, left_out = transfer_sets.Shelf(None, SIZE).find([name])
  assert left_out[name] == (
    f"{name} needs the splits train and test (or validation or val), and has"
    " testing, training"
  )
