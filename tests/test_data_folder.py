"""Image folders: order, crops, broken files, wrong folders."""

import itertools
import subprocess
import sys

from evaluation_helpers import PIXELS
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from essl_jax import augment, data
from essl_jax.data import batches as batches_lib
from essl_jax.data import crops as crops_lib
from essl_jax.data.folder import FolderSource
from essl_jax.errors import UsageError
from essl_jax.evaluation import features

CLASSES = ("ant", "bee", "cat")
SIZE, TEST_SIZE, BATCH = 23, 11, 4
STEPS = SIZE // BATCH
CROPS = {
  "first": augment.View(size=6, scale=(0.08, 1), interpolation="bicubic"),
  "third": augment.View(size=4, scale=(0.05, 0.14)),
}


def write_image(path, number, size):
  """A file of one colour, which tells its number."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", size, (number, 255 - number, 7)).save(path)


def write_folder(root, sizes=(("train", SIZE, 0), ("val", TEST_SIZE, 100))):
  """Images of many sizes in three classes, some in inner folders."""
  for split, count, first in sizes:
    for i in range(count):
      inner = "more" if i % 5 == 4 else "."
      path = root / split / CLASSES[i % 3] / inner / f"{i:02d}.png"
      write_image(path, first + i, (5 + 3 * (i % 7), 40 - 4 * (i % 8)))
  return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture
def broken_folder(tmp_path):
  """Three of the training and two of the test images cannot be read."""
  write_folder(tmp_path)
  image = tmp_path / "train/ant/00.png"
  image.write_bytes(image.read_bytes()[:-30])
  (tmp_path / "train/bee/01.png").write_text("text")
  (tmp_path / "train/bee/10.png").write_bytes(b"")
  (tmp_path / "val/ant/00.png").write_bytes(b"")
  (tmp_path / "val/cat/05.png").write_text("text")
  return tmp_path


BROKEN = {0, 1, 10}


def open_folder(root, **more):
  """The source with evaluation images of eight pixels."""
  options = {"test_split": "val", "image_size": 8, "resize_size": 9} | more
  return data.make_source("folder", directory=str(root), **options)


def take(source, n, **arguments):
  """The first n batches of crops."""
  arguments = {"batch_size": BATCH, "seed": 0, "crops": CROPS} | arguments
  return list(itertools.islice(source.batches(**arguments), n))


def numbers(batch, name="first"):
  """The number of each image of a batch."""
  return batch[name][:, 0, 0, 0].tolist()


def assert_equal_crops(left, right):
  """Compares all arrays of batches."""
  assert len(left) == len(right) > 0
  for one, other in zip(left, right, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


def test_what_a_folder_says_of_itself(folder):
  source = open_folder(folder)
  assert isinstance(source, FolderSource)
  assert source.num_classes == 3 and source.differs_in_size
  assert source.image_shape == (8, 8, 3)
  assert source.num_examples("train") == SIZE
  assert source.num_examples("test") == TEST_SIZE
  assert not any(source.broken.values())
  with pytest.raises(UsageError, match="unknown split 'val'"):
    source.num_examples("val")


def test_epochs_are_permutations_with_their_labels(folder):
  batches = take(open_folder(folder), 2 * STEPS)
  for batch in batches:
    assert batch["first"].shape == (BATCH, 6, 6, 3)
    assert batch["third"].shape == (BATCH, 4, 4, 3)
    assert batch["first"].dtype == batch["third"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert [n % 3 for n in numbers(batch)] == batch["label"].tolist()
    assert numbers(batch) == numbers(batch, "third")
  epochs = [sum(map(numbers, batches[e : e + STEPS]), []) for e in (0, STEPS)]
  for epoch in epochs:
    assert len(set(epoch)) == STEPS * BATCH and set(epoch) <= set(range(SIZE))
  assert epochs[0] != epochs[1]
  (whole,) = take(open_folder(folder), 1, batch_size=SIZE)
  assert sorted(numbers(whole)) == list(range(SIZE))


@pytest.mark.parametrize("start", [1, STEPS, 2 * STEPS + 3])
def test_resuming_is_exact_and_reads_only_what_follows(
  folder, start, monkeypatch
):
  whole = take(open_folder(folder), start + 2)
  monkeypatch.setattr(batches_lib, "_BATCHES_AHEAD", 0)
  monkeypatch.setattr(batches_lib, "_THREADS_PER_CORE", 1)
  monkeypatch.setattr(batches_lib, "_cores", lambda: 1)
  source, read = open_folder(folder), []
  plain = source._read
  source._read = lambda split, i: read.append(i) or plain(split, i)
  resumed = take(source, 2, start_step=start)
  assert_equal_crops(whole[start:], resumed)
  expected = []
  for step in (start, start + 1):
    order = np.random.default_rng([0, step // STEPS]).permutation(SIZE)
    expected += order[step % STEPS * BATCH :][:BATCH].tolist()
  assert read == expected


@pytest.mark.parametrize("count", [2, 4])
def test_shares_together_are_the_whole_batch(broken_folder, count):
  whole = take(open_folder(broken_folder), STEPS + 2)
  shares = [
    take(
      open_folder(broken_folder),
      STEPS + 2,
      process_index=i,
      process_count=count,
    )
    for i in range(count)
  ]
  for batch, *parts in zip(whole, *shares, strict=True):
    for name in batch:
      together = np.concatenate([part[name] for part in parts])
      np.testing.assert_array_equal(together, batch[name])


def test_crops_are_cut_from_the_full_image(tmp_path):
  rng = np.random.default_rng(0)
  images = {}
  for i, (height, width) in enumerate(
    [(70, 90), (33, 120), (64, 64), (50, 40)]
  ):
    small = Image.fromarray(rng.integers(0, 256, (7, 7, 3), np.uint8))
    path = tmp_path / "train" / CLASSES[i % 2] / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    image.save(path)
    images[i] = np.asarray(image)
  source = open_folder(tmp_path, test_split="train")
  order = np.random.default_rng([5, 1]).permutation(4)
  by_path = [0, 2, 1, 3]  # sorted by class, then name
  (batch,) = take(source, 1, batch_size=2, seed=5, start_step=2)
  for row, index in enumerate(order[:2]):
    pixels = images[by_path[index]]
    for name, view in CROPS.items():
      draws = crops_lib.crop_draws(5, name, 2 * 2 + row, 1)[0]
      box = crops_lib.crop_box(draws, *pixels.shape[:2], view.scale, view.ratio)
      top, left, height, width = box
      window = pixels[top : top + height, left : left + width]
      expected = Image.fromarray(window).resize(
        (view.size, view.size), getattr(Image, view.interpolation.upper())
      )
      np.testing.assert_array_equal(batch[name][row], expected)


def test_crops_differ_between_epochs_views_and_seeds(tmp_path):
  for name in "ab":
    gradient = np.arange(60 * 60 * 3).reshape(60, 60, 3) // 43
    path = tmp_path / "train" / name / "1.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(gradient.astype(np.uint8)).save(path)
  view = augment.View(size=6)
  source = open_folder(tmp_path, test_split="train")
  arguments = {"batch_size": 2, "crops": {"first": view, "second": view}}
  one = take(source, 2, **arguments)
  other = take(source, 1, seed=1, **arguments)
  found = [
    b[name].tobytes() for b in one + other for name in ("first", "second")
  ]
  assert len(set(found)) == 6


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
  rank = {}  # as listed: by class, then inner folders after files
  listed = open_folder(broken_folder)._images["train"]
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


def test_whole_images_can_be_had_shuffled(folder):
  source = open_folder(folder)
  batches = take(source, 2, crops=None)
  for batch, cropped in zip(batches, take(source, 2), strict=True):
    assert batch["image"].shape == (BATCH, 8, 8, 3)
    assert numbers(batch, "image") == numbers(cropped)


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


def test_parts_of_splits_hold_all_classes(folder):
  parts = {"train_split": "train[:60%]", "test_split": "train[60%:]"}
  source = open_folder(folder, **parts)
  found = {
    split: sum(
      (numbers(b, "image") for b in source.evaluation_batches(split, 8)), []
    )
    for split in ("train", "test")
  }
  assert len(found["train"]) == source.num_examples("train") == 14
  assert sorted(found["train"] + found["test"]) == list(range(SIZE))
  for part in found.values():
    assert {n % 3 for n in part} == {0, 1, 2}


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
  """Empties a class, or all."""
  for path in root.glob(pattern):
    if path.is_file():
      path.unlink()


@pytest.mark.parametrize(
  ("spoil", "options", "message"),
  [
    (None, {"directory": None}, "needs data.dir"),
    (None, {"directory": "/no/such"}, "'/no/such' is no folder"),
    (None, {"image_size": None, "resize_size": None}, "set .*data.image_size"),
    (None, {"resize_size": 7}, "resize_size=7 is less than .*image_size=8"),
    (None, {"image_size": None}, "resize_size=9 needs data.image_size"),
    (None, {"test_split": "test"}, "no folder 'test' but train, val"),
    (None, {"train_split": "train[50:]"}, "examples 50 to 23"),
    ("train/**/*", {}, "train holds no images"),
    ("train/bee/**/*", {}, "bee in .*train hold.* no image"),
  ],
)
def test_wrong_folders_are_explained(tmp_path, spoil, options, message):
  write_folder(tmp_path)
  if spoil:
    remove(tmp_path, spoil)
  given = {"directory": str(tmp_path), "test_split": "val", "image_size": 8}
  with pytest.raises(UsageError, match=message) as error:
    data.make_source("folder", **(given | {"resize_size": 9} | options))
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
  with pytest.raises(UsageError, match="flat holds no images in folders"):
    open_folder(tmp_path, train_split="flat")


@pytest.mark.parametrize("crops", [{}, {"label": CROPS["first"]}])
def test_wrong_crops_are_refused(folder, crops):
  with pytest.raises(ValueError, match="none of them 'label'"):
    open_folder(folder).batches(batch_size=4, seed=0, crops=crops)


def test_arrays_refuse_crops_and_resizing():
  source = data.make_source("digits")
  assert not source.differs_in_size
  with pytest.raises(ValueError, match="crop them on the device"):
    source.batches(batch_size=4, seed=0, crops=CROPS)
  with pytest.raises(UsageError, match="resize_size=9"):
    data.make_source("digits", image_size=8, resize_size=9)


def test_folders_need_no_tensorflow(folder):
  program = (
    "import sys; from essl_jax import augment, data\n"
    f"source = data.make_source('folder', directory={str(folder)!r},\n"
    "  test_split='val', image_size=8)\n"
    "crops = {'first': augment.View(size=4)}\n"
    "next(source.batches(batch_size=4, seed=0, crops=crops))\n"
    "bad = [m for m in sys.modules if m.startswith('tensorflow')]\n"
    "assert not bad, bad"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], check=True, capture_output=True
  )
  assert done.stderr == b""
