"""Image folders: order, shares, crops, parts."""

import subprocess
import sys

from data_helpers import open_source
from folder_helpers import (
  BATCH,
  CLASSES,
  CROPS,
  SIZE,
  STEPS,
  TEST_SIZE,
  assert_equal_crops,
  numbers,
  open_folder,
  take,
  write_folder,
)
import numpy as np
from PIL import Image
import pytest

from essl_jax import augment
from essl_jax.data import batches as batches_lib
from essl_jax.data import crops as crops_lib
from essl_jax.data.encoded import EncodedSource
from essl_jax.errors import UsageError


def test_what_a_folder_says_of_itself(folder):
  source = open_folder(folder)
  assert isinstance(source, EncodedSource)
  assert source.num_classes == 3 and source.differs_in_size
  assert source.image_shape == (8, 8, 3)
  assert source.num_examples("train") == SIZE
  assert source.num_examples("test") == TEST_SIZE
  assert not any(source.broken.values())
  with pytest.raises(UsageError, match="unknown split 'val'"):
    source.num_examples("val")


def test_chosen_classes_alone_are_read(folder):
  """Like ImageNet-100 from ImageNet; numbered by name in any order."""
  chosen = (CLASSES[2], CLASSES[0])
  source = open_folder(folder, own={"classes": chosen})
  assert list(source.classes) == sorted(chosen) and source.num_classes == 2
  assert source.num_examples("train") == sum(i % 3 != 1 for i in range(SIZE))
  batches = source.evaluation_batches("train", SIZE)
  assert set(np.concatenate([x["label"] for x in batches])) == {0, 1}
  with pytest.raises(UsageError, match="no folder nowhere, which") as error:
    open_folder(folder, own={"classes": (CLASSES[0], "nowhere")})
  assert "\n" not in str(error.value)
  with pytest.raises(UsageError, match="has only the class"):
    open_folder(folder, own={"classes": CLASSES[:1]})


def test_links_in_a_circle_are_followed_once(tmp_path):
  folder = write_folder(tmp_path / "images")
  (tmp_path / "apart").mkdir()
  Image.new("RGB", (9, 9)).save(tmp_path / "apart" / "more.png")
  inside = folder / "train" / CLASSES[0]
  for name, target in (
    ("up", ".."),
    ("same", "."),
    ("apart", tmp_path / "apart"),
  ):
    (inside / name).symlink_to(target, target_is_directory=True)
  assert open_folder(folder).num_examples("train") == SIZE + 1


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
  monkeypatch.setattr(batches_lib, "BATCHES_AHEAD", 0)
  monkeypatch.setattr(batches_lib, "THREADS_PER_CORE", 1)
  monkeypatch.setattr(batches_lib, "cores", lambda: 1)
  source, read = open_folder(folder), []
  plain = source.read
  source.read = lambda split, i: read.append(i) or plain(split, i)
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


def test_whole_images_can_be_had_shuffled(folder):
  source = open_folder(folder)
  batches = take(source, 2, crops=None)
  for batch, cropped in zip(batches, take(source, 2), strict=True):
    assert batch["image"].shape == (BATCH, 8, 8, 3)
    assert numbers(batch, "image") == numbers(cropped)


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


@pytest.mark.parametrize("crops", [{}, {"label": CROPS["first"]}])
def test_wrong_crops_are_refused(folder, crops):
  with pytest.raises(ValueError, match="none of them 'label'"):
    open_folder(folder).batches(batch_size=4, seed=0, crops=crops)


def test_arrays_refuse_crops_and_resizing():
  source = open_source("digits")
  assert not source.differs_in_size
  with pytest.raises(ValueError, match="crop them on the device"):
    source.batches(batch_size=4, seed=0, crops=CROPS)
  with pytest.raises(UsageError, match="resize_size=9"):
    open_source("digits", image_size=8, resize_size=9)


def test_folders_need_no_tensorflow(folder):
  program = (
    "import sys; from essl_jax import augment, config, data\n"
    f"settings = config.Data('folder', {str(folder)!r}, test_split='val',\n"
    "  image_size=8)\n"
    "source = data.open_source(settings)\n"
    "crops = {'first': augment.View(size=4)}\n"
    "next(source.batches(batch_size=4, seed=0, crops=crops))\n"
    "bad = [m for m in sys.modules if m.startswith('tensorflow')]\n"
    "assert not bad, bad"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], check=True, capture_output=True
  )
  assert done.stderr == b""
