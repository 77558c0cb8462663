"""Both sources keep the promises of `essl_jax.data.Source`."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from essl_jax import data
from essl_jax.data import streaming
from essl_jax.errors import UsageError

SIZE, TEST_SIZE, BATCH = 51, 13, 8
STEPS = SIZE // BATCH


def numbered_images(n, start=0, shape=(6, 5, 3)):
  """Images [n, H, W, 3] whose first pixel is their number."""
  images = np.random.default_rng(start).integers(0, 256, (n, *shape))
  images[:, 0, 0] = (start + np.arange(n))[:, None]
  return images.astype(np.uint8)


def numbers(batch):
  return batch["image"][:, 0, 0, 0].tolist()


def make_arrays():
  return data.ArraySource(
    numbered_images(SIZE),
    np.arange(SIZE) % 3,
    numbered_images(TEST_SIZE, 100),
    np.arange(TEST_SIZE) % 3,
  )


def write_tfds(data_dir, name, train, test, shape, **more):
  import tensorflow_datasets as tfds

  def examples(images):
    return [
      (i, {"image": image, "label": i % 3, **dict.fromkeys(more, i)})
      for i, image in enumerate(images)
    ]

  tfds.dataset_builders.store_as_tfds_dataset(
    name=name,
    version="1.0.0",
    features=tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(shape=shape, encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=3),
        **more,
      }
    ),
    split_datasets={"train": examples(train), "test": examples(test)},
    data_dir=data_dir,
  )


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
  """A TFDS data_dir with sets written by TFDS itself."""
  pytest.importorskip("tensorflow")
  pytest.importorskip("tensorflow_datasets")
  path = str(tmp_path_factory.mktemp("tfds"))
  train, test = numbered_images(SIZE), numbered_images(TEST_SIZE, 100)
  write_tfds(path, "tiny", train, test, (6, 5, 3), extra=np.int64)
  gray = train[..., :1]
  write_tfds(path, "tiny_gray", gray, gray[:4], (6, 5, 1))
  sizes = [(8, 12), (30, 10), (9, 9), (64, 63)]
  mixed = [np.full((*s, 3), 40 * i, np.uint8) for i, s in enumerate(sizes)]
  mixed[0][:, 6:] = 200
  write_tfds(path, "tiny_mixed", mixed, mixed, (None, None, 3))
  return path


@pytest.fixture(params=["arrays", "streamed", "streamed_large"])
def source_of(request, monkeypatch):
  """Returns a function that makes a fresh source of one kind."""
  if request.param == "arrays":
    return make_arrays
  path = request.getfixturevalue("tfds_dir")
  if request.param == "streamed_large":
    # A shuffle buffer of a few images, as for a set larger than memory.
    monkeypatch.setattr(streaming, "SHUFFLE_BYTES", 1000)
  return lambda: data.make_source("tiny", directory=path)


def take(source, n, **arguments):
  arguments = {"batch_size": BATCH, "seed": 0} | arguments
  return list(itertools.islice(source.batches(**arguments), n))


def assert_equal_batches(left, right):
  assert len(left) == len(right) > 0
  for one, other in zip(left, right, strict=True):
    np.testing.assert_array_equal(one["image"], other["image"])
    np.testing.assert_array_equal(one["label"], other["label"])


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


def test_indices_are_the_order_of_batches():
  source = make_arrays()
  arguments = {"batch_size": BATCH, "seed": 3, "start_step": STEPS + 2}
  indices = list(itertools.islice(source.indices(**arguments), STEPS))
  for index, batch in zip(indices, take(source, STEPS, **arguments), strict=1):
    assert index.dtype == np.int32
    np.testing.assert_array_equal(source.train_images[index], batch["image"])


@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 1)])
def test_grayscale_arrays_get_three_channels(shape):
  gray = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
  source = data.ArraySource(gray, np.arange(4), gray, np.arange(4))
  assert source.image_shape == (6, 5, 3)
  expected = np.stack([gray.reshape(4, 6, 5)] * 3, axis=-1)
  np.testing.assert_array_equal(source.train_images, expected)


IMAGES, LABELS = np.zeros((4, 6, 5, 3), np.uint8), np.arange(4)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"train_images": IMAGES / 255}, r"train_images is float64 \[4, 6, 5, 3"),
    ({"test_images": IMAGES[..., :2]}, r"test_images is uint8 \[4, 6, 5, 2\]"),
    ({"test_images": IMAGES[0, 0]}, r"test_images is uint8 \[5, 3\]"),
    ({"test_images": IMAGES[:, :5]}, r"\(6, 5, 3\) and test_images \(5, 5"),
    ({"train_images": IMAGES[:0]}, r"train_images is uint8 \[0, 6"),
    ({"train_labels": LABELS[:3]}, r"train_labels is int64 \[3\]"),
    ({"test_labels": LABELS * 1.0}, "test_labels is float64"),
    ({"test_labels": LABELS - 1}, "test_labels holds -1"),
    ({"num_classes": 3}, "label is 3, but num_classes=3"),
  ],
)
def test_wrong_arrays_are_named(changes, message):
  arrays = {
    "train_images": IMAGES,
    "train_labels": LABELS,
    "test_images": IMAGES,
    "test_labels": LABELS,
  }
  with pytest.raises(UsageError, match=message):
    data.ArraySource(**(arrays | changes))


def test_npz_is_read_and_cut(tmp_path):
  arrays = make_arrays()
  path = tmp_path / "set.npz"
  np.savez(path, **{k: getattr(arrays, k) for k in data.arrays.NPZ_KEYS})
  source = data.make_source(
    str(path), train_split="train[10%:20]", test_split="train[20:]"
  )
  assert (source.num_examples("train"), source.num_classes) == (15, 3)
  (batch,) = source.evaluation_batches("train", SIZE)
  assert numbers(batch) == list(range(5, 20))
  (batch,) = source.evaluation_batches("test", SIZE)
  assert numbers(batch) == list(range(20, SIZE))
  with pytest.raises(UsageError, match="image_size=7.*6x5"):
    data.make_source(str(path), image_size=7)


@pytest.mark.parametrize(
  ("split", "message"),
  [
    ("valid", "unknown split 'valid'.*train.*test"),
    ("train[:52]", "0 to 52 of the 51"),
    ("train[9:9]", "non-empty"),
    ("train[-5:]", "cannot read"),
    ("train+test", "cannot read"),
  ],
)
def test_wrong_sub_splits_are_refused(split, message):
  with pytest.raises(UsageError, match=message):
    data.arrays.take_sub_splits(make_arrays(), split, "test")


def test_wrong_npz_files_are_explained(tmp_path):
  path = str(tmp_path / "set.npz")
  with pytest.raises(UsageError, match="does not exist.*train_images"):
    data.make_source(path)
  np.savez(path, train_images=IMAGES, other=LABELS)
  with pytest.raises(UsageError) as error:
    data.make_source(path)
  assert "lacks train_labels, test_images, test_labels and holds " in str(
    error.value
  )
  assert "train_images, other: an .npz file with" in str(error.value)
  whole = (tmp_path / "set.npz").read_bytes()
  for broken in (b"", b"no archive", whole[: len(whole) // 2]):
    (tmp_path / "set.npz").write_bytes(broken)
    with pytest.raises(UsageError, match="cannot be read"):
      data.make_source(path)


def test_digits():
  pytest.importorskip("sklearn")
  source = data.make_source("digits")
  assert (source.num_classes, source.image_shape) == (10, (8, 8, 3))
  assert source.num_examples("train") + source.num_examples("test") == 1797
  assert abs(source.num_examples("test") - 360) <= 5
  assert source.train_images.max() == 255
  assert source.train_images.min() == 0
  counts = np.bincount(source.test_labels) / np.bincount(source.train_labels)
  np.testing.assert_allclose(counts, 0.25, atol=0.01)
  # Nothing is in both parts, nothing is lost.
  assert not {i.tobytes() for i in source.train_images} & {
    i.tobytes() for i in source.test_images
  }
  np.testing.assert_array_equal(
    source.train_images, data.load_digits().train_images
  )


def test_missing_packages_are_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn", None)
  with pytest.raises(UsageError, match=r"pip install 'essl-jax\[digits\]'"):
    data.make_source("digits")
  for module in ("tensorflow", "tensorflow_datasets", "importlib_resources"):
    with monkeypatch.context() as context:
      context.setitem(sys.modules, module, None)
      with pytest.raises(UsageError, match=rf"{module} is.*jax\[tfds\]"):
        data.make_source("cifar10")


def test_arrays_need_no_tensorflow():
  program = (
    "import sys, numpy as np; from essl_jax import data\n"
    "source = data.make_source('digits')\n"
    "next(source.batches(batch_size=4, seed=0))\n"
    "bad = [m for m in sys.modules if m.startswith('tensorflow')]\n"
    "assert not bad, bad"
  )
  subprocess.run([sys.executable, "-c", program], check=True)


def test_sets_read_from_tfds_into_arrays(tfds_dir):
  arguments = {"directory": tfds_dir, "train_split": "train[5:40]"}
  streamed = data.make_source("tiny", **arguments)
  held = data.make_source("tiny", on_device=True, **arguments)
  assert isinstance(held, data.ArraySource)
  assert held.num_classes == streamed.num_classes == 3
  assert held.num_examples("train") == streamed.num_examples("train") == 35
  assert_equal_batches(
    list(held.evaluation_batches("train", 10)),
    list(streamed.evaluation_batches("train", 10)),
  )


def test_grayscale_tfds(tfds_dir):
  source = data.make_source("tiny_gray", directory=tfds_dir)
  assert source.image_shape == (6, 5, 3)
  original = numbered_images(SIZE)[..., :1]
  (batch,) = take(source, 1)
  np.testing.assert_array_equal(
    batch["image"], np.repeat(original[numbers(batch)], 3, axis=-1)
  )


def test_images_of_many_sizes_are_resized_and_cropped(tfds_dir):
  with pytest.raises(UsageError, match="data.image_size"):
    data.make_source("tiny_mixed", directory=tfds_dir)
  source = data.make_source("tiny_mixed", directory=tfds_dir, image_size=8)
  assert source.image_shape == (8, 8, 3)
  (batch,) = source.evaluation_batches("train", 4)
  by_level = {int(i[0, 0, 0]): i for i in batch["image"]}
  for level in (40, 80, 120):
    assert (by_level[level] == level).all()
  # 8 x 12 is not resized; its columns 2..9 are the centre.
  expected = np.repeat([[0] * 4 + [200] * 4], 8, axis=0)
  np.testing.assert_array_equal(by_level[0][..., 0], expected)
  with pytest.raises(UsageError, match="image_size=0"):
    data.make_source("tiny_mixed", directory=tfds_dir, image_size=0)


def test_resizing_agrees_with_pil(tfds_dir):
  from PIL import Image
  import tensorflow as tf

  image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
  ours = streaming._resize_and_crop(tf.constant(image), 10, tf).numpy()
  resized = Image.fromarray(image).resize((15, 10), Image.Resampling.BILINEAR)
  difference = ours - np.asarray(resized)[:, 2:12].astype(float)
  assert np.abs(difference).max() <= 2


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"name": "cifar1"}, "'cifar1' is unknown.*did you mean cifar10"),
    ({"name": "tiny/no"}, "tiny/no"),
    ({"name": "a b"}, "'a b': ValueError"),
    ({"train_split": "trian"}, "'trian'.*splits test, train"),
    ({"test_split": "test[:99]"}, r"'test\[:99\]'.*splits test, train"),
    ({"train_split": "train[3:3]"}, r"train\[3:3\]"),
  ],
)
def test_wrong_tfds_names_are_explained(tfds_dir, arguments, message):
  with pytest.raises(UsageError, match=message) as error:
    data.make_source(**({"name": "tiny", "directory": tfds_dir} | arguments))
  assert "\n" not in str(error.value)


def test_sets_without_images_or_labels_are_refused(tmp_path, tfds_dir):
  import tensorflow_datasets as tfds

  features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
  tfds.dataset_builders.store_as_tfds_dataset(
    name="words",
    version="1.0.0",
    features=features,
    split_datasets={s: [(0, {"text": "a"})] for s in ("train", "test")},
    data_dir=str(tmp_path),
  )
  with pytest.raises(UsageError, match=r"it has text\): an 8-bit 'image'"):
    data.make_source("words", directory=str(tmp_path))


def test_without_network_a_missing_set_is_explained(
  tmp_path, tfds_dir, monkeypatch
):
  import requests

  def refuse(*_, **__):
    raise requests.ConnectionError("no network")

  monkeypatch.setattr(requests, "get", refuse)
  with pytest.raises(UsageError) as error:
    data.make_source("cifar10", directory=str(tmp_path))
  message = str(error.value)
  for part in (str(tmp_path), "cannot be reached", "tfds build cifar10"):
    assert part in message
  assert "--config.data.dir=DIR" in message
  assert "digits" in message
  assert "\n" not in message
  assert not list(tmp_path.iterdir())


def test_real_cifar10():
  directory = os.environ.get("ESSL_JAX_CIFAR10_DIR")
  if not directory:
    pytest.skip("ESSL_JAX_CIFAR10_DIR names no prepared TFDS directory")
  source = data.make_source("cifar10", directory=directory)
  assert (source.num_classes, source.image_shape) == (10, (32, 32, 3))
  assert source.num_examples("train") == 50_000
  assert source.num_examples("test") == 10_000
  whole = take(source, 4, batch_size=512, start_step=95)
  later = take(source, 2, batch_size=512, start_step=97)
  assert_equal_batches(whole[2:], later)
  assert set(whole[0]["label"]) == set(range(10))
  assert not np.array_equal(whole[0]["image"], whole[2]["image"])
