"""Image folders with broken, odd and foreign files, and wrong folders."""

from data_helpers import open_source
from evaluation_helpers import PIXELS
from folder_helpers import (
  BATCH,
  BROKEN,
  SIZE,
  STEPS,
  assert_equal_crops,
  numbers,
  open_folder,
  take,
  write_folder,
  write_image,
)
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from essl_jax import data
from essl_jax.errors import UsageError
from essl_jax.evaluation import broken, features


def test_broken_files_are_told_once_and_counted(broken_folder, capfd):
  source = open_folder(broken_folder)
  take(source, 3 * STEPS)
  list(source.evaluation_batches("test", 4))
  list(source.evaluation_batches("train", 4))
  told = capfd.readouterr().err.splitlines()
  paths = sorted(
    str(broken_folder / name)
    for name in ("train/ant/00.png", "train/bee/01.png", "train/bee/10.png")
  )
  assert sorted(source.broken["train"]) == paths
  assert len(source.broken["test"]) == 2
  assert len(told) == 5
  for path in paths + source.broken["test"]:
    assert sum(path in line for line in told) == 1
  assert source.num_examples("train") == SIZE


def test_the_next_readable_image_stands_in_for_a_broken_one(broken_folder):
  found = take(open_folder(broken_folder), STEPS)
  intact = sorted(set(range(SIZE)) - BROKEN)
  rank = {}  # in listing order: by class, files before folders
  listed = open_folder(broken_folder).images["train"]
  for i in range(SIZE):
    rank[i] = int(listed.name(i)[-6:-4])
  order = [rank[i] for i in np.random.default_rng([0, 0]).permutation(SIZE)]
  expected = []
  for position in range(STEPS * BATCH):
    place = position
    while order[place % SIZE] in BROKEN:
      place += 1
    expected.append(order[place % SIZE])
  together = sum(map(numbers, found), [])
  assert together == expected
  labels = np.concatenate([batch["label"] for batch in found])
  assert labels.tolist() == [n % 3 for n in expected]
  resumed = take(open_folder(broken_folder), 2, start_step=STEPS - 2)
  assert_equal_crops(found[-2:], resumed)
  (whole,) = take(open_folder(broken_folder), 1, batch_size=SIZE)
  assert sorted(set(numbers(whole))) == intact


def test_evaluation_leaves_broken_files_out(broken_folder):
  source = open_folder(broken_folder)
  batches = list(source.evaluation_batches("test", 4))
  assert [len(batch["label"]) for batch in batches] == [4, 4, 1]
  found = sum((numbers(batch, "image") for batch in batches), [])
  assert sorted(found) == sorted({100 + i for i in range(11)} - {100, 105})
  for batch in batches:
    assert batch["image"].shape[1:] == (8, 8, 3)
    assert [(n - 100) % 3 for n in numbers(batch, "image")] == (
      batch["label"].tolist()
    )
  encoded, labels = features.extract(
    lambda variables, images: jnp.mean(images, axis=(1, 2)),
    {},
    open_folder(broken_folder),
    "test",
    batch_size=4,
    **PIXELS,
  )
  assert encoded.shape == (9, 3) and labels.shape == (9,)
  red = np.round((encoded[:, 0] * 0.25 + 0.5) * 255)
  assert red.tolist() == found
  held = open_folder(broken_folder, on_device=True)
  assert isinstance(held, data.ArraySource)
  assert held.num_examples("train") == SIZE - len(BROKEN)
  assert {split: len(held.broken[split]) for split in held.broken} == {
    "train": 3,
    "test": 2,
  }


def test_shares_leave_out_the_broken_files_among_their_own(broken_folder):
  (whole,) = open_folder(broken_folder).evaluation_batches("train", SIZE)
  found = []
  for index in range(3):
    source = open_folder(broken_folder)
    share = list(source.evaluation_batches("train", 3, index, 3))
    assert all(len(batch["label"]) == 3 for batch in share[:-1])
    found += sum((numbers(batch, "image") for batch in share), [])
  assert found == numbers(whole, "image")


def test_broken_files_of_a_set_and_its_part_are_counted_once(broken_folder):
  source = open_folder(broken_folder)
  list(source.evaluation_batches("train", SIZE))
  part = source.take(np.arange(SIZE // 2))
  list(part.evaluation_batches("train", SIZE))
  told = broken.left_out((source, part))
  assert told["train"]["number"] == 3
  assert told["train"]["names"] == sorted(source.broken["train"])
  assert broken.describe(told).startswith("3 of train")


def test_odd_images_are_read(tmp_path, capfd):
  root = tmp_path / "train"
  write_image(root / "a/one.png", 1, (1, 1))
  write_image(root / "a/huge.jpg", 2, (6000, 4000))
  write_image(root / "b/line.png", 3, (1, 2000))
  Image.new("L", (20, 9), 4).save(root / "b/gray.jpg")
  Image.new("CMYK", (20, 9), (250, 0, 248, 0)).save(root / "b/cmyk.JPEG")
  Image.new("P", (9, 9)).save(root / "b/no_ending", "png")
  source = open_folder(tmp_path, test_split="train")
  (batch,) = source.evaluation_batches("train", 9)
  levels = [2, 1, 5, 4, 3, 0]  # in the order of names
  assert np.abs(np.array(numbers(batch, "image")) - levels).max() <= 2
  (batch,) = take(source, 1, batch_size=6)
  assert np.abs(np.sort(numbers(batch)) - np.sort(levels)).max() <= 2
  assert capfd.readouterr().err == ""


def test_files_that_are_no_images_are_counted_once(tmp_path, capfd):
  write_folder(tmp_path)
  for name in ("ant/notes.txt", "bee/a.XML", "bee/b.xml", "cat/.DS_Store"):
    (tmp_path / "train" / name).write_text("")
  source = open_folder(tmp_path)
  assert source.num_examples("train") == SIZE
  (line,) = capfd.readouterr().err.splitlines()
  for part in ("4 file(s)", "2 .xml", "1 .txt", str(tmp_path)):
    assert part in line


def remove(root, pattern):
  """Empties one class or all classes."""
  for path in root.glob(pattern):
    if path.is_file():
      path.unlink()


@pytest.mark.parametrize(
  ("spoil", "options", "message"),
  [
    (None, {"dir": None}, "needs data.dir"),
    (None, {"dir": ""}, "needs data.dir"),  # from an unset shell variable
    (None, {"dir": "/no/such"}, "'/no/such' is not a folder"),
    (None, {"image_size": None, "resize_size": None}, "set .*data.image_size"),
    (None, {"resize_size": 7}, "resize_size=7 is less than .*image_size=8"),
    (None, {"image_size": None}, "resize_size=9 needs data.image_size"),
    (None, {"test_split": "test"}, "no folder 'test', only train, val"),
    (None, {"train_split": "train[50:]"}, "examples 50 to 23"),
    ("train/**/*", {}, "train has no images"),
    ("train/bee/**/*", {}, "no images in bee of .*train"),
  ],
)
def test_wrong_folders_are_explained(tmp_path, spoil, options, message):
  write_folder(tmp_path)
  if spoil:
    remove(tmp_path, spoil)
  given = {"dir": str(tmp_path), "test_split": "val", "image_size": 8}
  with pytest.raises(UsageError, match=message) as error:
    open_source("folder", **(given | {"resize_size": 9} | options))
  assert "\n" not in str(error.value)


def test_wrong_classes_are_explained(tmp_path, capfd):
  for split, names in (("train", "abcdefg"), ("val", "abxy")):
    for name in names:
      write_image(tmp_path / split / name / "1.png", 1, (9, 9))
  with pytest.raises(UsageError) as error:
    open_folder(tmp_path)
  for part in ("only train has c, d, e and 2 more", "only val has x, y"):
    assert part in str(error.value)
  write_image(tmp_path / "one" / "a" / "1.png", 1, (9, 9))
  with pytest.raises(UsageError, match="only the class 'a'"):
    open_folder(tmp_path, train_split="one", test_split="one")
  for name in "ab":
    path = tmp_path / "bad" / name / "1.png"
    path.parent.mkdir(parents=True)
    path.write_text("text")
  with pytest.raises(UsageError, match="none of the 2 train images.*1.png"):
    open_folder(tmp_path, train_split="bad", test_split="bad")
  (tmp_path / "flat").mkdir()
  (tmp_path / "flat" / "1.png").write_bytes(b"")
  with pytest.raises(UsageError, match="flat has no images in folders"):
    open_folder(tmp_path, train_split="flat")


def test_vanished_files_are_left_out_but_failing_disks_stop_the_run(
  folder, monkeypatch
):
  source = open_folder(folder)
  plain = type(source.images["train"]).__getitem__

  def read(files, index):
    if index == 5:
      raise failure
    return plain(files, index)

  monkeypatch.setattr(type(source.images["train"]), "__getitem__", read)
  failure: OSError = FileNotFoundError("gone")
  take(source, STEPS + 1)
  assert source.broken["train"] == [source.images["train"].name(5)]
  failure = OSError(5, "Input/output error")
  with pytest.raises(OSError, match="Input/output error"):
    take(open_folder(folder), STEPS + 1)


def test_every_readable_file_is_seen_by_a_whole_pass(broken_folder):
  source = open_folder(broken_folder)
  (batch,) = take(source, 1, batch_size=SIZE, crops=None)
  seen = numbers(batch, "image")
  assert set(seen) == set(range(SIZE)) - BROKEN
  assert len(seen) == SIZE  # replacements appear twice


def test_a_directory_is_no_name(tmp_path):
  with pytest.raises(
    UsageError, match=f"data.name=folder.*data.dir={tmp_path}"
  ):
    open_source(str(tmp_path))
