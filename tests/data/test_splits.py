"""Expressions of splits have the same meaning as in TFDS."""

from data_helpers import make_arrays, open_source
from folder_helpers import SIZE, TEST_SIZE, numbers, open_folder, write_folder
import numpy as np
import photonics_helpers
import pytest

from essl_jax import config as config_lib
from essl_jax.data import arrays as arrays_lib
from essl_jax.data.checks import parse_split, split_names
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick

SIZES = {"train": 51, "test": 13, "train-2024": 7, "my val": 20, "val.v2": 9}


@pytest.mark.parametrize(
  ("split", "expected"),
  [
    ("train", [("train", 0, 51)]),
    ("train-2024", [("train-2024", 0, 7)]),
    ("my val", [("my val", 0, 20)]),
    ("my val[:50%]", [("my val", 0, 10)]),
    ("val.v2[1:]", [("val.v2", 1, 9)]),
    ("train[:10]", [("train", 0, 10)]),
    ("test[-50%:]", [("test", 7, 13)]),  # -6.5 is rounded to even
    ("test[:-3]", [("test", 0, 10)]),
    ("train[-10:-5]", [("train", 41, 46)]),
    ("train[33.3%:66.6%]", [("train", 17, 34)]),
    ("train[:5_0]", [("train", 0, 50)]),
    ("train[:-10%]", [("train", 0, 46)]),
    ("test+test", [("test", 0, 13), ("test", 0, 13)]),
    ("train[:2] + test[3:5]", [("train", 0, 2), ("test", 3, 5)]),
    ("my val+val.v2", [("my val", 0, 20), ("val.v2", 0, 9)]),
    ("all", [(name, 0, size) for name, size in SIZES.items()]),
  ],
)
def test_expressions_are_read_as_tfds_reads_them(split, expected):
  found = parse_split(split, SIZES)
  assert [(name, x.start, x.stop) for name, x in found] == expected
  assert split_names(split, SIZES) == list(
    dict.fromkeys(x[0] for x in expected)
  )


def test_a_name_that_looks_like_an_expression_is_a_name():
  sizes = {"a": 3, "a+b": 4, "c[:1]": 5, "all": 6, " d ": 7, "e\n": 8, "+": 9}
  for name, size in sizes.items():
    assert parse_split(name, sizes) == [(name, slice(0, size))]
    assert parse_split(f"{name}[:2]", sizes) == [(name, slice(0, 2))]
    assert parse_split(f"a+{name}[1:]+{name}", sizes) in (
      [("a", slice(0, 3)), (name, slice(1, size)), (name, slice(0, size))],
    )


@pytest.mark.parametrize(
  ("split", "message"),
  [
    ("test[-14:]", "asks for examples -1 to 13 of the 13 in 'test'"),
    ("test[:101%]", "cannot read the split"),
    ("test[5:5]", "non-empty slice"),
    ("test[-1%:]", "asks for examples 13 to 13 of the 13"),  # TFDS: all 13
    ("test+", "unknown split ''"),
    ("[:5]", "cannot read the split"),
    ("all[:5]", "unknown split 'all'"),
    ("test[:0]", "non-empty slice"),
    ("test[1shard:]", "cannot read the split"),
    ("test[:]]", "cannot read the split"),
    ("test[ten:]", "cannot read the split"),
    ("my_val", "unknown split 'my_val'.*my val"),
    ("", "unknown split ''"),
    ("train test", "unknown split 'train test'"),
  ],
)
def test_wrong_expressions_are_told_in_one_line(split, message):
  with pytest.raises(UsageError, match=message) as error:
    parse_split(split, SIZES)
  assert "\n" not in str(error.value)


def found(source, split):
  """Returns the numbers of the images of a split, in order."""
  batches = source.evaluation_batches(split, SIZE)
  return sum((numbers(batch, "image") for batch in batches), [])


def test_folders_of_any_name_are_added_up_and_cut(tmp_path):
  names = (("train-2024", SIZE, 0), ("my val", TEST_SIZE, 100))
  root = write_folder(tmp_path, (*names, ("val.v2", 9, 150)))
  whole = open_folder(root, train_split="train-2024", test_split="my val")
  assert sorted(found(whole, "train")) == list(range(SIZE))
  source = open_folder(
    root, train_split="train-2024[:9]+val.v2", test_split="my val[-5:]"
  )
  half = open_folder(root, train_split="my val[:50%]", test_split="val.v2")
  assert len(found(source, "test")) == 5 and source.num_examples("test") == 5
  together = sorted(found(half, "train") + found(source, "test"))
  assert together == [100 + i for i in range(TEST_SIZE)]
  both = found(source, "train")
  first = open_folder(root, train_split="train-2024[:9]", test_split="my val")
  assert both[:9] == found(first, "train")
  assert sorted(both[9:]) == [150 + i for i in range(9)]
  labels = source.labels().tolist()
  assert labels == [(n if n < 100 else n - 150) % 3 for n in both]
  assert [int(name[-6:-4]) for name in source.names()] == [
    n if n < 100 else n - 150 for n in both
  ]
  twice = open_folder(root, train_split="val.v2+val.v2", test_split="all")
  assert sorted(found(twice, "train")) == sorted([*both[9:]] * 2)
  assert twice.num_examples("test") == SIZE + TEST_SIZE + 9


def test_arrays_are_added_up():
  whole = make_arrays()
  settings = config_lib.Data("x", train_split="test[-2:]+train[:3]+test[:1]")
  part = arrays_lib.open_arrays(settings, whole)
  rows = [whole.test_images[-2:], whole.train_images[:3], whole.test_images[:1]]
  np.testing.assert_array_equal(part.train_images, np.concatenate(rows))
  assert len(part.train_labels) == 6


def test_cells_are_added_up(monkeypatch, tmp_path):
  sizes = {"unlabelled": 20, "train": 6, "validation": 4, "test": 5}
  photonics_helpers.stand_in(monkeypatch, sizes)
  for name in sizes:
    (tmp_path / f"{name}.h5").touch()
  source = open_source(
    "photonics",
    dir=str(tmp_path),
    train_split="train[-2:]+unlabelled",
    test_split="test+validation",
  )
  assert source.num_examples("train") == 22
  assert source.num_examples("test") == 9
