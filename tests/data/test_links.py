"""Links in image folders: no image is in two splits, classes or places."""

import os

from folder_helpers import (
  CLASSES,
  SIZE,
  TEST_SIZE,
  numbers,
  open_folder,
  write_folder,
  write_image,
)
import pytest

from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick


@pytest.fixture
def root(tmp_path):
  return write_folder(tmp_path / "set")


def found(root, split, **more):
  """Returns the sorted numbers of the images of a split."""
  source = open_folder(root, **more)
  batches = source.evaluation_batches(split, SIZE)
  return sorted(sum((numbers(batch, "image") for batch in batches), []))


OWN = {"train": list(range(SIZE)), "test": [100 + i for i in range(TEST_SIZE)]}


@pytest.mark.parametrize(
  "target",
  [
    "../..",  # the set
    "../../..",  # around it
    "/",
    "../../val",
    "../../val/ant",
    "../bee",
    "..",
    ".",
    "loop",
  ],
)
def test_links_bring_no_image_of_the_set_elsewhere(root, target, capfd):
  """Links to the set, or to a folder around or in it, are not followed."""
  os.symlink(target, root / "train" / "ant" / "loop")
  if target == "loop":  # not a folder but an unreadable file
    assert found(root, "train") == OWN["train"]
    assert "Too many levels of symbolic links" in capfd.readouterr().err
    return
  assert found(root, "train") == OWN["train"]
  assert found(root, "test") == OWN["test"]
  assert "1 link(s) into the set" in capfd.readouterr().err


def test_links_to_files_of_the_set_are_not_followed(root, capfd):
  """A link never moves an image to another split or class."""
  ant = root / "train" / "ant"
  for i, target in enumerate(
    ("../../val/ant/00.png", "../bee/01.png", "00.png")
  ):
    os.symlink(target, ant / f"x{i}.png")
  os.symlink(root / "val" / "ant" / "00.png", ant / "x3.png")
  assert found(root, "train") == OWN["train"]
  assert "4 link(s) into the set" in capfd.readouterr().err


def test_places_outside_of_the_set_are_read_once(root, tmp_path, capfd):
  apart = tmp_path / "apart"
  write_image(apart / "one.png", 50, (9, 9))
  write_image(apart / "inner" / "two.png", 51, (9, 9))
  os.symlink(root / "val", apart / "back")  # through it into the set
  os.symlink(apart, apart / "inner" / "round")
  for label, name, target in (
    ("ant", "a", apart),
    ("ant", "b", apart),  # the same again
    ("ant", "c.png", apart / "one.png"),
    ("bee", "d", apart / "inner"),  # under another class
    ("bee", "e.png", apart / "inner" / "two.png"),
  ):
    os.symlink(target, root / "train" / label / name)
  assert found(root, "train") == sorted([*OWN["train"], 50, 51])
  said = capfd.readouterr().err
  assert "link(s) to a place met before" in said
  assert "1 link(s) into the set" in said


def test_files_that_links_found_first_are_not_read_again(root, tmp_path):
  apart = tmp_path / "apart"
  write_image(apart / "inner" / "one.png", 50, (9, 9))
  os.symlink(
    apart / "inner" / "one.png", root / "train" / "ant" / "00_first.png"
  )
  os.symlink(apart, root / "train" / "ant" / "later")
  assert found(root, "train") == sorted([*OWN["train"], 50])


def test_splits_made_of_links_are_read(tmp_path):
  """Classes and files may link to a store, even one beside the splits."""
  store = write_folder(tmp_path / "set" / "store")
  for split in ("train", "val"):
    for label in CLASSES:
      place = tmp_path / "set" / split / label
      place.parent.mkdir(exist_ok=True)
      if label == "ant":
        place.symlink_to(store / split / label)
        continue
      place.mkdir()
      for path in (store / split / label).rglob("*.png"):
        (place / path.name).symlink_to(path)
  assert found(tmp_path / "set", "train") == OWN["train"]
  assert found(tmp_path / "set", "test") == OWN["test"]


@pytest.mark.parametrize("kind", ["folder", "file", "file in a folder"])
def test_a_place_that_two_splits_link_to_is_refused(root, tmp_path, kind):
  """Otherwise its images would be both trained and tested on."""
  apart = tmp_path / "apart"
  write_image(apart / "one.png", 50, (9, 9))
  targets = {
    "folder": (apart, apart),
    "file": (apart / "one.png",) * 2,
    "file in a folder": (apart, apart / "one.png"),
  }
  for split, target in zip(("train", "val"), targets[kind], strict=True):
    os.symlink(target, root / split / "ant" / "more.png")
  with pytest.raises(
    UsageError, match="links of train and val both lead to .*ap"
  ):
    open_folder(root)
  expected = sorted([*OWN["train"], 50])
  assert found(root, "train", test_split="train") == expected


@pytest.mark.parametrize(
  ("name", "target"),
  [("other", "train"), ("other", "train/ant"), ("other", ".")],
)
def test_splits_linked_to_each_other_are_refused(root, name, target):
  os.symlink(target, root / name)
  where = r"leads to .*, which belongs to the split \w+ too: give parts of one"
  with pytest.raises(UsageError, match=where) as error:
    open_folder(root, test_split=name)
  assert "\n" not in str(error.value)


def test_a_class_that_is_a_link_into_the_set_is_told(root):
  for split in ("train", "val"):
    os.symlink("ant", root / split / "emu")
  with pytest.raises(
    UsageError, match=r"no images in emu of .*train .*1 link\(s\) into"
  ):
    open_folder(root)
