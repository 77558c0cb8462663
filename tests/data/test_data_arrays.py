"""Sources in memory: arrays, .npz files, digits."""

import itertools
import subprocess
import sys

from data_helpers import (
  BATCH,
  SIZE,
  STEPS,
  make_arrays,
  numbers,
  open_source,
  take,
)
import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax import data
from essl_jax.errors import UsageError

IMAGES, LABELS = np.zeros((4, 6, 5, 3), np.uint8), np.arange(4)


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
  np.savez(path, **{k: getattr(arrays, k) for k in data.npz.NPZ_KEYS})
  source = open_source(
    str(path), train_split="train[10%:20]", test_split="train[20:]"
  )
  assert (source.num_examples("train"), source.num_classes) == (15, 3)
  (batch,) = source.evaluation_batches("train", SIZE)
  assert numbers(batch) == list(range(5, 20))
  (batch,) = source.evaluation_batches("test", SIZE)
  assert numbers(batch) == list(range(20, SIZE))
  with pytest.raises(UsageError, match="image_size=7.*6x5"):
    open_source(str(path), image_size=7)


@pytest.mark.parametrize(
  ("split", "message"),
  [
    ("valid", "unknown split 'valid'.*train.*test"),
    ("train[:52]", "0 to 52 of the 51"),
    ("train[9:9]", "non-empty"),
    ("train[-52:]", "-1 to 51 of the 51"),
    ("train[5]", "cannot read"),
    ("train[1:2:3]", "cannot read"),
    ("train[:5][:2]", "cannot read"),
    ("train[:1e1]", "cannot read"),
    (f"train[:{'9' * 5000}]", "cannot read"),
    ("train[]", "cannot read"),
    ("train+", "unknown split ''"),
    ("train+valid[:5]", "unknown split 'valid'"),
    ("all[:5]", "unknown split 'all'"),
  ],
)
def test_wrong_sub_splits_are_refused(split, message):
  with pytest.raises(UsageError, match=message):
    data.arrays.open_arrays(
      config_lib.Data("npz", train_split=split), make_arrays()
    )


def test_a_folder_that_nobody_reads_is_refused():
  with pytest.raises(UsageError, match="dir='sets', but 'digits' does not use"):
    data.arrays.open_arrays(
      config_lib.Data("digits", dir="sets"), make_arrays()
    )


def test_wrong_npz_files_are_explained(tmp_path):
  path = str(tmp_path / "set.npz")
  with pytest.raises(UsageError, match="does not exist.*train_images"):
    open_source(path)
  np.savez(path, train_images=IMAGES, other=LABELS)
  with pytest.raises(UsageError) as error:
    open_source(path)
  assert "lacks train_labels, test_images, test_labels and holds " in str(
    error.value
  )
  assert "train_images, other: give an .npz file with" in str(error.value)
  whole = (tmp_path / "set.npz").read_bytes()
  for broken in (b"", b"no archive", whole[: len(whole) // 2]):
    (tmp_path / "set.npz").write_bytes(broken)
    with pytest.raises(UsageError, match="cannot be read"):
      open_source(path)


def test_digits():
  pytest.importorskip("sklearn")
  source = open_source("digits")
  assert (source.num_classes, source.image_shape) == (10, (8, 8, 3))
  assert source.num_examples("train") + source.num_examples("test") == 1797
  assert abs(source.num_examples("test") - 360) <= 5
  assert source.train_images.max() == 255
  assert source.train_images.min() == 0
  counts = np.bincount(source.test_labels) / np.bincount(source.train_labels)
  np.testing.assert_allclose(counts, 0.25, atol=0.01)
  # No image is in both parts, and none is lost.
  assert not {i.tobytes() for i in source.train_images} & {
    i.tobytes() for i in source.test_images
  }
  np.testing.assert_array_equal(
    source.train_images, data.load_digits().train_images
  )


def test_missing_packages_are_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn", None)
  with pytest.raises(UsageError, match=r"pip install 'essl-jax\[digits\]'"):
    open_source("digits")
  for module in ("tensorflow", "tensorflow_datasets", "importlib_resources"):
    with monkeypatch.context() as context:
      context.setitem(sys.modules, module, None)
      with pytest.raises(UsageError, match=rf"^{module} is not"):
        open_source("cifar10")


def test_arrays_need_no_tensorflow():
  program = (
    "import sys, numpy as np; from essl_jax import config, data\n"
    "source = data.open_source(config.Data('digits'))\n"
    "next(source.batches(batch_size=4, seed=0))\n"
    "bad = [m for m in sys.modules if m.startswith('tensorflow')]\n"
    "assert not bad, bad"
  )
  subprocess.run([sys.executable, "-c", program], check=True)
