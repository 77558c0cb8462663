"""Labels of all sources: how they are numbered, and which are refused."""

import types

from data_helpers import open_source
import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax import data
from essl_jax.data import arrays as arrays_lib
from essl_jax.data import labels
from essl_jax.data.checked import CheckedSource
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick

IDS = [2**32 + 1, 1, 2**31 - 1, 2**63 - 1]


def make(train, test, num_classes=None):
  """A source of black images with these labels."""
  images = [np.zeros((len(x), 2, 2, 3), np.uint8) for x in (train, test)]
  return data.ArraySource(images[0], train, images[1], test, num_classes)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_ids_of_64_bits_become_classes_in_their_order(dtype):
  """Ids 2**32 apart are two classes, not billions of them."""
  train = np.array([*IDS, *IDS], dtype)
  source = make(train, np.array(IDS[::-1], np.int64))
  assert source.num_classes == 4
  assert source.classes.tolist() == sorted(IDS)
  assert source.train_labels.tolist() == [2, 0, 1, 3] * 2
  assert source.test_labels.tolist() == [3, 1, 0, 2]
  assert source.train_labels.dtype == source.test_labels.dtype == np.int32


def test_ids_beyond_int64_are_told_apart():
  train = np.array([2**64 - 1, 2**64 - 2, 5], np.uint64)
  source = make(train, np.array([5], np.int8))
  assert source.train_labels.tolist() == [2, 1, 0]
  assert source.test_labels.tolist() == [0]


def test_labels_from_0_on_stay_what_they_are():
  source = make(np.array([2, 0, 1, 1]), np.array([1, 1]))
  assert source.train_labels.tolist() == [2, 0, 1, 1]
  assert source.test_labels.tolist() == [1, 1]
  assert source.num_classes == 3 and labels.numbering(source) == {}


def test_classes_are_counted_not_their_largest_label():
  """Labels from 1, or with gaps, create no class without images."""
  assert make(np.arange(1, 11), np.array([10])).num_classes == 10
  assert make(np.array([0, 7, 3]), np.array([7])).test_labels.tolist() == [2]


def test_unlabelled_training_images_take_the_classes_of_the_test_images():
  source = make(np.full(5, -1), np.array([30, 10, 30]))
  assert source.train_labels.tolist() == [-1] * 5
  assert source.test_labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
  ("train", "test", "message"),
  [
    (np.array([0, 1.0]), np.array([0]), "train_labels is float64"),
    (np.array([0, np.nan]), np.array([0]), "train_labels is float64"),
    (np.array(["a", "b"]), np.array([0]), "train_labels is <U1"),
    (np.array([True, False]), np.array([0]), "train_labels is bool"),
    (np.array([1, 2], "m8[s]"), np.array([0]), r"train_labels is timedelta"),
    (np.array([0, 1], object), np.array([0]), "train_labels is object"),
    (np.array([-1, 1]), np.array([1]), "train_labels holds -1: .* >= 0"),
    (np.array([0, 1]), np.array([-7]), "test_labels holds -7"),
    (np.array([0, 1]), np.array([1, 2**32, 5]), "lacks, 5, 4294967296: give"),
  ],
)
def test_labels_that_name_no_class_are_refused(train, test, message):
  """Floats, text, negative numbers, and classes only of test images."""
  with pytest.raises(UsageError, match=message) as error:
    make(train, test)
  assert "\n" not in str(error.value)


def test_numbers_of_classes_beyond_all_sets_are_refused(monkeypatch):
  with pytest.raises(UsageError, match="2,147,483,648 classes, but only 1 to"):
    make(np.array([0, 1]), np.array([0]), 2**31)
  monkeypatch.setattr(labels, "MOST_CLASSES", 3)
  with pytest.raises(
    UsageError, match="train_labels: 4 classes, but only 1 to"
  ):
    make(np.array(IDS), np.array([1]))
  feature = types.SimpleNamespace(num_classes=4)
  with pytest.raises(UsageError, match="the labels of x: 4 classes"):
    labels.check_number(feature.num_classes, "the labels of x")


def test_parts_of_a_set_number_its_classes_alike(tmp_path, capfd):
  """A split without some classes keeps the numbers, and the run logs them."""
  path = str(tmp_path / "set.npz")
  images = np.zeros((6, 2, 2), np.uint8)
  ids = np.array([7, 7, 2**40, 9, 9, 7])
  np.savez(
    path,
    train_images=images,
    train_labels=ids,
    test_images=images,
    test_labels=ids,
  )
  source = open_source(path, train_split="train[:2]", test_split="test[-3:]")
  assert source.num_classes == 3 and source.train_labels.tolist() == [0, 0]
  assert source.test_labels.tolist() == [1, 1, 0]
  assert labels.numbering(source) == {"labels": [7, 9, 2**40]}
  told = capfd.readouterr().err
  assert f"the labels 7, 9, {2**40} of {path} are numbered 0 to 2" in told
  whole = make(ids, ids)
  settings = config_lib.Data("x", train_split="train+test[:1]")
  joined = arrays_lib.open_arrays(settings, whole)
  assert joined.train_labels.tolist() == [0, 0, 2, 1, 1, 0, 0]


class Mine:
  """A user's source with possibly wrong labels and number of classes."""

  image_shape, differs_in_size = (2, 2, 3), False
  broken: dict[str, list[str]] = {"train": [], "test": []}

  def __init__(self, found, num_classes):
    self.found, self.num_classes = found, num_classes

  def num_examples(self, split):
    """Returns the same number for both splits."""
    return len(self.found)

  def evaluation_batches(self, split, batch_size, **_):
    """Yields all images once."""
    image = np.zeros((len(self.found), 2, 2, 3), np.uint8)
    for row in range(len(self.found)):
      part = slice(row, row + 1)
      yield {"image": image[part], "label": self.found[part]}

  def batches(self, **_):
    """Unused here."""
    raise NotImplementedError


def test_a_users_labels_are_checked_before_they_are_narrowed():
  source = CheckedSource("mine", Mine(np.array([1, 0], np.uint64), 2))
  found = list(source.evaluation_batches("test", 1))
  assert [x["label"].tolist() for x in found] == [[1], [0]]
  assert {x["label"].dtype for x in found} == {np.dtype(np.int32)}
  with pytest.raises(UsageError, match="labels are 4294967297 to 4294967297"):
    CheckedSource("mine", Mine(np.array([2**32 + 1]), 2))
  with pytest.raises(UsageError, match="num_classes: 2,147,483,648 classes"):
    CheckedSource("mine", Mine(np.array([0]), 2**31))


@pytest.mark.parametrize("wrong", [2**32 + 1, 3, -2])
def test_numbered_labels_out_of_range_are_refused(wrong):
  """In records and users' batches; they never wrap to another class."""
  found = labels.check_range(np.array([0, 2, -1]), 3, "a set")
  assert found.tolist() == [0, 2, -1] and found.dtype == np.int32
  with pytest.raises(UsageError, match=f"a set: labels are .*{wrong}"):
    labels.check_range(np.array([0, wrong]), 3, "a set")
  with pytest.raises(UsageError, match="labels are float64"):
    labels.check_range(np.array([0.0]), 3, "a set")
