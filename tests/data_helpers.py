"""What the tests of data share: numbered images, as arrays and in TFDS."""

import itertools

import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax import data

SIZE, TEST_SIZE, BATCH = 51, 13, 8
STEPS = SIZE // BATCH


def numbered_images(n, start=0, shape=(6, 5, 3)):
  """Images [n, H, W, 3] whose first pixel is their number."""
  images = np.random.default_rng(start).integers(0, 256, (n, *shape))
  images[:, 0, 0] = (start + np.arange(n))[:, None]
  return images.astype(np.uint8)


def numbers(batch):
  """The number of each image of a batch."""
  return batch["image"][:, 0, 0, 0].tolist()


def make_arrays():
  """A source of numbered images in memory."""
  return data.ArraySource(
    numbered_images(SIZE),
    np.arange(SIZE) % 3,
    numbered_images(TEST_SIZE, 100),
    np.arange(TEST_SIZE) % 3,
  )


def write_tfds(
  data_dir, name, train, test, shape, file_format="tfrecord", **more
):
  """Writes a set as TFDS does."""
  import tensorflow_datasets as tfds

  def more_of(i):
    values = {"file_name": f"name_{i}.JPEG"}
    return {name: values.get(name, i) for name in more}

  def examples(images):
    return [
      (i, {"image": image, "label": i % 3, **more_of(i)})
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
    file_format=file_format,
  )


def make_tfds_dir(tmp_path_factory):
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


def make_records_dir(tmp_path_factory):
  """A TFDS data_dir with sets in both formats, two of images of many sizes."""
  pytest.importorskip("tensorflow")
  pytest.importorskip("array_record")
  path = str(tmp_path_factory.mktemp("records"))
  train, test = numbered_images(SIZE), numbered_images(TEST_SIZE, 100)
  write_tfds(path, "tiny_records", train, test, (6, 5, 3), "array_record")
  sized = [
    np.full((9 + 5 * (i % 7), 30 - 4 * (i % 5), 3), i, np.uint8)
    for i in range(SIZE)
  ]
  for name, file_format in (
    ("tiny_sized", "tfrecord"),
    ("tiny_sized_records", "array_record"),
  ):
    write_tfds(path, name, sized, sized[:7], (None, None, 3), file_format)
  return path


def open_source(name, own=None, **settings):
  """The source of `config.data`, with its own fields."""
  return data.open_source(config_lib.Data(name, **settings), own)


def take(source, n, **arguments):
  """The first n batches."""
  arguments = {"batch_size": BATCH, "seed": 0} | arguments
  return list(itertools.islice(source.batches(**arguments), n))


def assert_equal_batches(left, right):
  """Compares images and labels."""
  assert len(left) == len(right) > 0
  for one, other in zip(left, right, strict=True):
    np.testing.assert_array_equal(one["image"], other["image"])
    np.testing.assert_array_equal(one["label"], other["label"])
