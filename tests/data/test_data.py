"""Every source keeps the promises of `essl_jax.data.Source`."""

import itertools

from data_helpers import (
  BATCH,
  SIZE,
  STEPS,
  TEST_SIZE,
  assert_equal_batches,
  make_arrays,
  make_records_dir,
  make_tfds_dir,
  numbered_images,
  numbers,
  open_source,
  take,
)
import numpy as np
import pytest

from essl_jax.data import streaming
from essl_jax.errors import UsageError


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
  return make_tfds_dir(tmp_path_factory)


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory):
  return make_records_dir(tmp_path_factory)


@pytest.fixture(params=["arrays", "streamed", "streamed_large", "records"])
def source_of(request, monkeypatch):
  """Returns a function that makes a fresh source of one kind."""
  if request.param == "arrays":
    return make_arrays
  if request.param == "records":
    path = request.getfixturevalue("records_dir")
    return lambda: open_source("tiny_records", dir=path)
  path = request.getfixturevalue("tfds_dir")
  if request.param == "streamed_large":
    # A shuffle buffer of a few images, like for a set larger than memory.
    monkeypatch.setattr(streaming, "SHUFFLE_BYTES", 1000)
  return lambda: open_source("tiny", dir=path)


def test_same_seed_gives_the_same_batches(source_of):
  one = take(source_of(), 2 * STEPS)
  assert_equal_batches(one, take(source_of(), 2 * STEPS))
  for batch in one:
    assert batch["image"].dtype == np.uint8
    assert batch["image"].shape == (BATCH, 6, 5, 3)
    assert batch["label"].dtype == np.int32
    # Images and labels stay together.
    assert [n % 3 for n in numbers(batch)] == batch["label"].tolist()


def test_images_arrive_unchanged(source_of):
  original = numbered_images(SIZE)
  for batch in take(source_of(), STEPS):
    np.testing.assert_array_equal(batch["image"], original[numbers(batch)])


def test_epochs_are_permutations_that_differ(source_of):
  source = source_of()
  batches = take(source, 3 * STEPS)
  epochs = [
    sum(map(numbers, batches[e * STEPS : (e + 1) * STEPS]), [])
    for e in range(3)
  ]
  epochs.append(sum(map(numbers, take(source, STEPS, seed=1)), []))
  for epoch in epochs:
    assert len(set(epoch)) == STEPS * BATCH
    assert set(epoch) <= set(range(SIZE))
    assert epoch != sorted(epoch)
  for one, other in itertools.combinations(epochs, 2):
    assert one != other


@pytest.mark.parametrize("start", [1, STEPS, 2 * STEPS + 3])
def test_resuming_is_exact(source_of, start):
  whole = take(source_of(), start + STEPS + 2)
  resumed = take(source_of(), STEPS + 2, start_step=start)
  assert_equal_batches(whole[start:], resumed)
  shared = {"process_index": 1, "process_count": 2}
  whole = take(source_of(), start + STEPS + 2, **shared)
  resumed = take(source_of(), STEPS + 2, start_step=start, **shared)
  assert_equal_batches(whole[start:], resumed)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_every_epoch(source_of, count, request):
  shares = [
    take(source_of(), 2 * STEPS, process_index=i, process_count=count)
    for i in range(count)
  ]
  whole = take(source_of(), 2 * STEPS)
  for epoch in (0, STEPS):
    seen: list[int] = []
    for step in range(epoch, epoch + STEPS):
      parts = [share[step] for share in shares]
      assert [len(p["label"]) for p in parts] == [BATCH // count] * count
      together = sum(map(numbers, parts), [])
      seen += together
      # Large splits are divided before they are shuffled.
      if "streamed_large" not in request.node.callspec.params.values():
        assert together == numbers(whole[step])
    assert len(seen) == len(set(seen)) == STEPS * BATCH


def test_evaluation_reads_everything_in_order(source_of):
  source = source_of()
  for split, size, first in [("train", SIZE, 0), ("test", TEST_SIZE, 100)]:
    assert source.num_examples(split) == size
    batches = list(source.evaluation_batches(split, 5))
    assert [len(b["label"]) for b in batches[:-1]] == [5] * (size // 5)
    assert len(batches[-1]["label"]) == size % 5
    found = sum(map(numbers, batches), [])
    assert sorted(found) == list(range(first, first + size))
    again = list(source_of().evaluation_batches(split, 5))
    assert_equal_batches(batches, again)
  with pytest.raises(UsageError, match="'valid'.*train.*test"):
    source.evaluation_batches("valid", 5)


@pytest.mark.parametrize("count", [2, 4, TEST_SIZE + 2])
def test_processes_share_an_evaluation(source_of, count):
  for split, size in (("train", SIZE), ("test", TEST_SIZE)):
    check_shares(source_of, split, size, count)
  with pytest.raises(UsageError, match=f"process_index={count} .*{count - 1}"):
    source_of().evaluation_batches("test", 5, count, count)


def test_processes_share_a_part_of_the_training_images(source_of):
  rows = np.array([0, 3, 4, 9, 20, 21, 50])
  check_shares(lambda: source_of().take(rows), "train", len(rows), 3)


def check_shares(source_of, split, size, count):
  """Together, in order, they are what one process would see."""
  whole = list(source_of().evaluation_batches(split, size))
  shares = [
    list(source_of().evaluation_batches(split, 3, i, count))
    for i in range(count)
  ]
  found = [sum(len(batch["label"]) for batch in share) for share in shares]
  assert sum(found) == size and max(found) - min(found) <= 1
  assert found == sorted(found, reverse=True)
  together = {
    name: np.concatenate([batch[name] for share in shares for batch in share])
    for name in ("image", "label")
  }
  assert_equal_batches([together], whole)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"batch_size": SIZE + 1}, f"batch_size={SIZE + 1} .* {SIZE} examples"),
    ({"process_count": 3}, "batch_size=8 .* process_count=3"),
    ({"process_index": 2, "process_count": 2}, "process_index=2"),
    ({"seed": -1}, "seed=-1"),
  ],
)
def test_wrong_batches_are_refused_at_once(source_of, arguments, message):
  source = source_of()
  with pytest.raises(UsageError, match=message):
    source.batches(**({"batch_size": BATCH, "seed": 0} | arguments))


def test_the_whole_split_can_be_one_batch(source_of):
  batches = take(source_of(), 3, batch_size=SIZE)
  for batch in batches:
    assert sorted(numbers(batch)) == list(range(SIZE))
