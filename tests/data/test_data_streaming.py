"""Sources read by TFDS."""

import os

from data_helpers import (
  SIZE,
  assert_equal_batches,
  make_tfds_dir,
  numbered_images,
  numbers,
  open_source,
  take,
)
import numpy as np
import pytest

from essl_jax import data
from essl_jax.errors import UsageError


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
  return make_tfds_dir(tmp_path_factory)


def test_sets_read_from_tfds_into_arrays(tfds_dir):
  arguments = {"dir": tfds_dir, "train_split": "train[5:40]"}
  streamed = open_source("tiny", **arguments)
  held = open_source("tiny", on_device=True, **arguments)
  assert isinstance(held, data.ArraySource)
  assert held.num_classes == streamed.num_classes == 3
  assert held.num_examples("train") == streamed.num_examples("train") == 35
  assert_equal_batches(
    list(held.evaluation_batches("train", 10)),
    list(streamed.evaluation_batches("train", 10)),
  )
  # Both train in the same order from any step; an epoch has 4 steps.
  for step in (0, 3, 6):
    assert_equal_batches(
      take(held, 5, batch_size=8, start_step=step),
      take(streamed, 5, batch_size=8, start_step=step),
    )


def test_grayscale_tfds(tfds_dir):
  source = open_source("tiny_gray", dir=tfds_dir)
  assert source.image_shape == (6, 5, 3)
  original = numbered_images(SIZE)[..., :1]
  (batch,) = take(source, 1)
  np.testing.assert_array_equal(
    batch["image"], np.repeat(original[numbers(batch)], 3, axis=-1)
  )


def test_images_of_many_sizes_are_resized_and_cropped(tfds_dir):
  with pytest.raises(UsageError, match="data.image_size"):
    open_source("tiny_mixed", dir=tfds_dir)
  source = open_source("tiny_mixed", dir=tfds_dir, image_size=8)
  assert source.image_shape == (8, 8, 3)
  (batch,) = source.evaluation_batches("train", 4)
  by_level = {int(i[0, 0, 0]): i for i in batch["image"]}
  for level in (40, 80, 120):
    assert (by_level[level] == level).all()
  # 8 x 12 images are not resized; columns 2..9 are their centre.
  expected = np.repeat([[0] * 4 + [200] * 4], 8, axis=0)
  np.testing.assert_array_equal(by_level[0][..., 0], expected)
  with pytest.raises(UsageError, match="image_size=0"):
    open_source("tiny_mixed", dir=tfds_dir, image_size=0)


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
    open_source(**({"name": "tiny", "dir": tfds_dir} | arguments))
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
  with pytest.raises(
    UsageError, match=r"it has text\): choose one with an 8-bit"
  ):
    open_source("words", dir=str(tmp_path))


def test_without_network_a_missing_set_is_explained(
  tmp_path, tfds_dir, monkeypatch
):
  import requests

  def refuse(*_, **__):
    raise requests.ConnectionError("no network")

  monkeypatch.setattr(requests, "get", refuse)
  with pytest.raises(UsageError) as error:
    open_source("cifar10", dir=str(tmp_path))
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
  source = open_source("cifar10", dir=directory)
  assert (source.num_classes, source.image_shape) == (10, (32, 32, 3))
  assert source.num_examples("train") == 50_000
  assert source.num_examples("test") == 10_000
  whole = take(source, 4, batch_size=512, start_step=95)
  later = take(source, 2, batch_size=512, start_step=97)
  assert_equal_batches(whole[2:], later)
  assert set(whole[0]["label"]) == set(range(10))
  assert not np.array_equal(whole[0]["image"], whole[2]["image"])
