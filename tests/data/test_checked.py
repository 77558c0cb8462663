"""Checks of users' sources: wrong ones are refused, right ones pass."""

import itertools

from data_helpers import open_source
import numpy as np
import pytest

from essl_jax.augment import View
from essl_jax.data.checked import CheckedSource
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick

SIZE = 12


class Mine:
  """Images of 8 pixels in two classes, at most three in a batch."""

  num_classes = 2
  image_shape = (8, 8, 3)
  differs_in_size = False
  broken: dict[str, list[str]] = {"train": [], "test": []}
  extra = "kept"

  def num_examples(self, split):
    """Returns the same number for both splits."""
    return SIZE

  def examples(self, n, shape=(8, 8, 3)):
    """Returns one batch."""
    return {
      "image": np.full((n, *shape), 7, np.uint8),
      "label": np.arange(n, dtype=np.int32) % 2,
    }

  def batches(self, *, batch_size, crops=None, process_count=1, **_):
    """Yields batches without end."""
    n = batch_size // process_count
    while True:
      batch = self.examples(n)
      if crops is not None:
        image = batch.pop("image")
        batch |= {k: image[:, : x.size, : x.size] for k, x in crops.items()}
      yield batch

  def evaluation_batches(
    self, split, batch_size, process_index=0, process_count=1
  ):
    """Yields all images once."""
    share = SIZE // process_count
    for start in range(0, share, batch_size):
      yield self.examples(min(batch_size, share - start))


def changed(**attributes):
  """A source with other attributes or methods."""
  return type("Mine", (Mine,), attributes)()


def images(dtype=np.uint8, shape=(8, 8, 3), label=1):
  """A method that returns images of another shape or dtype."""

  def examples(self, n):
    labels = np.full(n, label, np.int32)
    return {"image": np.ones((n, *shape), dtype), "label": labels}

  return examples


def fails(self, *_, **__):
  """Reads a missing key."""
  raise OSError("no such disk")
  yield


def test_a_right_source_is_left_alone():
  source = CheckedSource("mine", Mine())
  assert source.extra == "kept" and source.num_examples("train") == SIZE
  found = [len(x["label"]) for x in source.evaluation_batches("test", 5)]
  assert found == [5, 5, 2]
  share = source.evaluation_batches("test", 5, 1, 2)
  assert sum(len(x["label"]) for x in share) == SIZE // 2
  asked = {"batch_size": 4, "process_count": 2, "seed": 0}
  (batch,) = itertools.islice(source.batches(**asked), 1)
  assert batch["image"].shape == (2, 8, 8, 3)
  crops = {"first": View(6), "third": View(4)}
  (batch,) = itertools.islice(source.batches(crops=crops, **asked), 1)
  assert batch["third"].shape == (2, 4, 4, 3)


def test_missing_and_broken_images_may_lack():
  source = changed(
    num_examples=lambda self, split: SIZE + 2,
    broken={"train": ["a"], "test": ["b", "c"]},
    examples=images(label=-1),
  )
  found = CheckedSource("mine", source).evaluation_batches("test", SIZE)
  assert [x["label"].max() for x in found] == [-1]


@pytest.mark.parametrize(
  ("attributes", "expected"),
  [
    ({"image_shape": None}, r"image_shape must be \(height, .* but is None"),
    ({"image_shape": (8, 8)}, r"image_shape must be .* \(8, 8\)"),
    ({"broken": None}, "broken must be a mapping .* None"),
    ({"num_classes": 2.5}, "num_classes must be a whole number but is 2.5"),
    ({"num_examples": lambda *_: 0}, r"num_examples\('train'\) must be .* 0"),
    ({"examples": images(np.float32)}, r"uint8 \[1, 8, 8, 3\] but is float32"),
    ({"examples": images(shape=(16, 16, 3))}, r"uint8 \[1, 16, 16, 3\]"),
    (
      {"examples": images(label=3)},
      "labels are 3 to 3 .* below num_classes=2",
    ),
    ({"examples": images(label=-2)}, "labels are -2 to -2"),
    (
      {"examples": lambda self, n: {"image": 0}},
      "need 'label' but have image",
    ),
    ({"evaluation_batches": fails}, "mine: OSError: no such disk"),
    ({"evaluation_batches": lambda *_, **__: iter(())}, "promises 12 train"),
    ({"batches": None, "num_examples": 3}, "TypeError"),
  ],
)
def test_wrong_sources_are_refused_when_opened(attributes, expected):
  with pytest.raises(UsageError, match=expected) as error:
    CheckedSource("mine", changed(**attributes))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("attributes", "expected"),
  [
    ({"batches": lambda *_, **__: iter(())}, "the training batches end"),
    ({"batches": fails}, "mine: OSError: no such disk"),
    (
      {"batches": lambda self, **_: iter([self.examples(3)])},
      "holds 3 labels but must hold 4",
    ),
  ],
)
def test_wrong_training_batches_are_told(attributes, expected):
  source = CheckedSource("mine", changed(**attributes))
  with pytest.raises(UsageError, match=expected):
    list(source.batches(batch_size=4, seed=0))


@pytest.mark.parametrize(("promised", "found"), [(13, "12"), (11, "more")])
def test_a_wrong_number_of_images_is_told(promised, found):
  source = changed(num_examples=lambda *_: promised)
  opened = CheckedSource("mine", source)
  with pytest.raises(UsageError, match=f"{promised} test .* yields {found}"):
    list(opened.evaluation_batches("test", 4))


def test_a_source_is_checked_where_it_is_opened(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "ours.py").write_text(
    """
from test_checked import Mine, changed
from essl_jax.data import ArraySource, Source
import numpy as np

def right(data):
  return Mine()

def protocol(data):
  return type("Typed", (Mine, Source), {"broken": None})()

def arrays(data):
  images = np.zeros((4, 8, 8, 3), np.uint8)
  labels = np.arange(4)
  return type("Derived", (ArraySource,), {})(images, labels, images, labels)
"""
  )
  assert isinstance(open_source("ours:right"), CheckedSource)
  with pytest.raises(UsageError, match="name=ours:protocol: broken must be"):
    open_source("ours:protocol")
  assert type(open_source("ours:arrays")).__name__ == "Derived"
