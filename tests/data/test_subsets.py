"""Few labels and samples: stratified, disjoint, the same everywhere."""

import dataclasses

from data_helpers import make_tfds_dir, numbered_images, open_source, write_tfds
import numpy as np
from PIL import Image
import pytest

from essl_jax import data
from essl_jax.data import subsets
from essl_jax.errors import UsageError

# A recorded subset: runs years apart must agree on it.
RECORDED = [0, 2, 8, 12, 14, 15, 23, 26, 29, 30, 33, 34, 56]


def skewed_labels():
  """60 labels of three classes: 40, 18 and 2 images, mixed."""
  places = np.arange(60) * 7 % 60
  return (places >= 40).astype(int) + (places >= 58)


def test_subsets_are_stratified_and_recorded():
  labels = skewed_labels()
  rows = subsets.choose(labels, 0.2)
  np.testing.assert_array_equal(np.bincount(labels[rows]), [8, 4, 1])
  assert sorted(set(rows)) == rows.tolist()
  assert rows.tolist() == RECORDED
  np.testing.assert_array_equal(subsets.choose(labels, 1.0), np.arange(60))
  # Other classes do not change one class's choice.
  only = np.where(labels == 1, 1, 5)
  chosen = subsets.choose(only, 0.2)
  assert set(chosen[only[chosen] == 1]) == set(rows[labels[rows] == 1])


def test_subsets_of_one_size_are_disjoint_and_cover_all():
  labels = np.arange(40) % 4
  five = [subsets.choose(labels, 0.2, subset) for subset in range(5)]
  assert sorted(np.concatenate(five)) == list(range(40))
  np.testing.assert_array_equal(subsets.choose(labels, 0.2, 5), five[0])
  assert len(subsets.choose(labels, 0.001)) == 4  # one of each class
  # If the rest of a class is too small, it wraps around, without duplicates.
  for subset in range(3):
    rows = subsets.choose(np.zeros(10, int), 0.6, subset)
    assert len(set(rows)) == 6


def test_names_match_with_and_without_folders():
  names = ["a/1.png", "a/2.png", "b/1.png", "b/deep/3.png"]
  rows = subsets.match(names, ["3.png", "a/1.png", "2.png", "2.png"])
  np.testing.assert_array_equal(rows, [0, 1, 3])
  with pytest.raises(UsageError, match=r"2 of the 3 .* such as x.png, y.png:"):
    subsets.match(names, ["x.png", "2.png", "y.png"])
  with pytest.raises(UsageError, match=r"several .* 1.png: list .* class/name"):
    subsets.match(names, ["1.png"])


def test_lists_are_read_or_refused(tmp_path):
  path = tmp_path / "list.txt"
  path.write_text("a.png\n\n  b.png  \n")
  assert subsets.read_list(path) == ["a.png", "b.png"]
  path.write_text("\n")
  with pytest.raises(UsageError, match="label_list .*list.txt is empty"):
    subsets.read_list(path)
  with pytest.raises(UsageError, match="label_list .*none.txt cannot be read"):
    subsets.read_list(tmp_path / "none.txt")


def seen(source, split="train"):
  """Returns first pixel and label of all images of a split, in order."""
  batches = list(source.evaluation_batches(split, 7))
  pixels = np.concatenate([x["image"][:, 0, 0, 0] for x in batches])
  return pixels.tolist(), np.concatenate([x["label"] for x in batches])


def check_few_labels(source):
  """Dividing changes no image, label, order or test split."""
  pixels, labels = seen(source)
  np.testing.assert_array_equal(source.labels(), labels)
  part = subsets.few_labels(source, 0.25, 1, None)
  rows = subsets.choose(labels, 0.25, 1)
  assert part.num_examples("train") == len(rows) < len(labels)
  assert part.num_examples("test") == source.num_examples("test")
  few = seen(part)
  assert few[0] == [pixels[row] for row in rows]
  np.testing.assert_array_equal(few[1], labels[rows])
  np.testing.assert_array_equal(part.labels(), labels[rows])
  stream = part.batches(batch_size=len(rows), seed=0)
  for _ in range(2):
    batch = next(stream)
    assert sorted(batch["image"][:, 0, 0, 0].tolist()) == sorted(few[0])
  sampled = subsets.sample(source, 9)
  assert sampled.num_examples("train") == 9
  assert set(seen(sampled)[0]) < set(pixels)
  assert seen(sampled)[0] == seen(subsets.sample(source, 9))[0]
  assert subsets.sample(source, len(labels)) is source
  few_tests = subsets.sample(source, 3, "test")
  assert few_tests.num_examples("train") == source.num_examples("train")
  assert few_tests.num_examples("test") == 3
  taken, everything = seen(few_tests, "test"), seen(source, "test")
  assert set(taken[0]) < set(everything[0])
  assert [everything[1][everything[0].index(x)] for x in taken[0]] == (
    taken[1].tolist()
  )


def test_arrays_are_divided():
  images = numbered_images(40)
  source = data.ArraySource(
    images, np.arange(40) % 3, images[:5], np.zeros(5, int)
  )
  check_few_labels(source)
  with pytest.raises(UsageError, match="no file names: set .*finetune.labels"):
    subsets.few_labels(source, 0.1, 0, __file__)


def test_folders_are_divided_and_listed(tmp_path):
  images = numbered_images(30, shape=(8, 8, 3))
  for number, image in enumerate(images):
    for split in ("train", "val"):
      folder = tmp_path / split / "abc"[number % 3]
      folder.mkdir(parents=True, exist_ok=True)
      Image.fromarray(image).save(folder / f"{number}.png")
  source = open_source(
    "folder", dir=str(tmp_path), test_split="val", image_size=8
  )
  check_few_labels(source)
  path = tmp_path / "few.txt"
  path.write_text("7.png\n5.png\nc/11.png\n")
  part = subsets.few_labels(source, 0.1, 0, str(path))
  pixels, labels = seen(part)
  assert sorted(pixels) == [5, 7, 11]
  assert sorted(zip(labels.tolist(), pixels, strict=True)) == [
    (1, 7),
    (2, 5),
    (2, 11),
  ]
  path.write_text("7.png\n70.png\n")
  with pytest.raises(UsageError, match="1 of the 2 listed .* such as 70.png"):
    subsets.few_labels(source, 0.1, 0, str(path))


def test_tfds_sets_are_divided_and_listed(tmp_path_factory):
  path = make_tfds_dir(tmp_path_factory)
  source = open_source("tiny", dir=path)
  check_few_labels(source)
  few = __file__
  with pytest.raises(UsageError, match=r"no file names \(it has extra, image"):
    subsets.few_labels(source, 0.1, 0, few)
  images = numbered_images(12)
  import tensorflow_datasets as tfds

  write_tfds(
    path, "named", images, images[:4], (6, 5, 3), file_name=tfds.features.Text()
  )
  named = open_source("named", dir=path)
  listed = tmp_path_factory.mktemp("list") / "few.txt"
  listed.write_text("name_3.JPEG\nname_8.JPEG\n")
  part = subsets.few_labels(named, 0.1, 0, str(listed))
  assert sorted(seen(part)[0]) == [3, 8]


def test_a_source_that_cannot_be_divided_is_refused():
  @dataclasses.dataclass
  class Stream:
    def num_examples(self, split):
      return 9

  with pytest.raises(UsageError, match="divided: it lacks .*, labels, names"):
    subsets.sample(Stream(), 3)


@pytest.mark.quick
def test_subsets_that_do_not_differ_are_refused():
  """They would repeat the first ones under another number."""
  images = np.zeros((10, 4, 4, 3), np.uint8)
  labels = np.array([0] * 6 + [1] * 4)
  source = data.ArraySource(images, labels, images[:2], labels[:2])
  for fraction, there in ((0.5, 2), (0.34, 4), (0.01, 6), (1.0, 1)):
    assert subsets.few_labels(source, fraction, there - 1, None)
    for subset in (there, 10**9):
      with pytest.raises(UsageError, match=f"gives {there} disjoint"):
        subsets.few_labels(source, fraction, subset, None)
