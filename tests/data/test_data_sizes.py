"""TFDS sets whose images differ in size: crops from both file formats."""

import itertools
import sys

from data_helpers import BATCH, SIZE, STEPS, make_records_dir, open_source
import numpy as np
import pytest

from essl_jax import augment
from essl_jax.data import streaming
from essl_jax.data.array_record import ArrayRecordSource
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick

CROPS = {
  "first": augment.View(size=6, scale=(0.08, 1), interpolation="bicubic"),
  "third": augment.View(size=4, scale=(0.05, 0.14)),
}


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
  return make_records_dir(tmp_path_factory)


@pytest.fixture(params=["tiny_sized", "tiny_sized_records"])
def source_of(request, tfds_dir):
  def make(**more):
    sizes = {"image_size": 8, "resize_size": 10}
    return open_source(request.param, dir=tfds_dir, **sizes, **more)

  return make


def take(source, n, **arguments):
  """Returns the first n batches of crops."""
  arguments = {"batch_size": BATCH, "seed": 0, "crops": CROPS} | arguments
  return list(itertools.islice(source.batches(**arguments), n))


def assert_equal(left, right):
  """Compares all arrays of batches."""
  assert len(left) == len(right) > 0
  for one, other in zip(left, right, strict=True):
    assert one.keys() == other.keys() == {*CROPS, "label"}
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


def test_epochs_are_permutations_with_their_labels(source_of):
  source = source_of()
  assert source.differs_in_size and source.image_shape == (8, 8, 3)
  batches = take(source, 2 * STEPS)
  epochs = []
  for first in (0, STEPS):
    seen = []
    for batch in batches[first : first + STEPS]:
      assert batch["first"].shape == (BATCH, 6, 6, 3)
      assert batch["third"].shape == (BATCH, 4, 4, 3)
      found = batch["first"][:, 0, 0, 0]
      # Every image has a single colour, which is its number.
      assert (batch["first"] == found[:, None, None, None]).all()
      assert (batch["third"] == found[:, None, None, None]).all()
      np.testing.assert_array_equal(found % 3, batch["label"])
      seen += found.tolist()
    assert len(set(seen)) == STEPS * BATCH
    epochs.append(seen)
  assert epochs[0] != epochs[1]


@pytest.mark.parametrize("start", [1, 2 * STEPS + 3])
def test_resuming_is_exact(source_of, start):
  whole = take(source_of(), start + 3)
  assert_equal(whole[start:], take(source_of(), 3, start_step=start))


def test_shares_together_are_the_whole_batch(source_of):
  whole = take(source_of(), STEPS + 1)
  shares = [
    take(source_of(), STEPS + 1, process_index=i, process_count=4)
    for i in range(4)
  ]
  for batch, *parts in zip(whole, *shares, strict=True):
    for name in batch:
      together = np.concatenate([part[name] for part in parts])
      np.testing.assert_array_equal(together, batch[name])


def test_large_splits_are_cropped_and_resumed(tfds_dir, monkeypatch):
  # A shuffle buffer of a few images, as for a set larger than memory.
  monkeypatch.setattr(streaming, "SHUFFLE_BYTES", 1000)
  make = lambda: open_source("tiny_sized", dir=tfds_dir, image_size=8)
  shared = {"process_index": 1, "process_count": 2}
  whole = take(make(), STEPS + 4, **shared)
  assert_equal(whole[3:], take(make(), STEPS + 1, start_step=3, **shared))


def test_evaluation_reads_everything(source_of):
  source = source_of()
  for split, size in (("train", SIZE), ("test", 7)):
    batches = list(source.evaluation_batches(split, 5))
    images = np.concatenate([batch["image"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    assert images.shape == (size, 8, 8, 3)
    assert sorted(images[:, 0, 0, 0]) == list(range(size))
    np.testing.assert_array_equal(images[:, 0, 0, 0] % 3, labels)
  (whole,) = take(source, 1, crops=None)
  assert whole["image"].shape == (BATCH, 8, 8, 3)


def test_formats_give_images_of_one_kind(tfds_dir):
  held = [
    open_source(name, dir=tfds_dir, image_size=8, on_device=True)
    for name in ("tiny_sized", "tiny_sized_records")
  ]
  one, other = (sorted(x.train_images.tolist()) for x in held)
  assert one == other


def test_sets_of_one_size_can_be_cropped_on_the_host(tfds_dir):
  source = open_source("tiny_records", dir=tfds_dir)
  assert not source.differs_in_size
  (batch,) = take(source, 1)
  assert batch["first"].shape == (BATCH, 6, 6, 3)


def test_array_record_needs_its_package(tfds_dir, monkeypatch):
  source = open_source("tiny_records", dir=tfds_dir)
  assert isinstance(source, ArrayRecordSource)
  module = "array_record.python.array_record_data_source"
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(UsageError, match="pip install array_record") as error:
    open_source("tiny_records", dir=tfds_dir)
  assert "\n" not in str(error.value)
  monkeypatch.undo()
  with pytest.raises(UsageError, match="'trian'"):
    open_source("tiny_records", dir=tfds_dir, train_split="trian")


def test_broken_records_are_told(source_of, monkeypatch, capfd):
  plain, bad = streaming.decode, []

  def decode(encoded, *room):
    image = plain(encoded, *room)
    if image.getpixel((0, 0)) == (3, 3, 3):
      bad.append(image)
      return plain(b"no image")
    return image

  monkeypatch.setattr(streaming, "decode", decode)
  monkeypatch.setattr("essl_jax.data.encoded.decode", decode)
  source = source_of()
  if isinstance(source, ArrayRecordSource):
    take(source, 2 * STEPS)
    assert len(source.broken["train"]) == len(bad) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "tiny_sized_records/1.0.0 train, record" in line
  else:
    with pytest.raises(UsageError, match="tiny_sized/1.0.0 cannot be decoded"):
      take(source, 2 * STEPS)
