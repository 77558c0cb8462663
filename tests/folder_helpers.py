"""What the tests of image folders share: numbered images of many sizes."""

import itertools

from data_helpers import open_source
import numpy as np
from PIL import Image

from essl_jax import augment

CLASSES = ("ant", "bee", "cat")
SIZE, TEST_SIZE, BATCH = 23, 11, 4
STEPS = SIZE // BATCH
CROPS = {
  "first": augment.View(size=6, scale=(0.08, 1), interpolation="bicubic"),
  "third": augment.View(size=4, scale=(0.05, 0.14)),
}
# Written by `spoil_folder`.
BROKEN = {0, 1, 10}


def write_image(path, number, size):
  """A file of one colour, which tells its number."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", size, (number, 255 - number, 7)).save(path)


def write_folder(root, sizes=(("train", SIZE, 0), ("val", TEST_SIZE, 100))):
  """Images of many sizes in three classes, some in inner folders."""
  for split, count, first in sizes:
    for i in range(count):
      inner = "more" if i % 5 == 4 else "."
      path = root / split / CLASSES[i % 3] / inner / f"{i:02d}.png"
      write_image(path, first + i, (5 + 3 * (i % 7), 40 - 4 * (i % 8)))
  return root


def open_folder(root, **more):
  """The source with evaluation images of eight pixels."""
  options = {"test_split": "val", "image_size": 8, "resize_size": 9} | more
  return open_source("folder", dir=str(root), **options)


def take(source, n, **arguments):
  """The first n batches of crops."""
  arguments = {"batch_size": BATCH, "seed": 0, "crops": CROPS} | arguments
  return list(itertools.islice(source.batches(**arguments), n))


def numbers(batch, name="first"):
  """The number of each image of a batch."""
  return batch[name][:, 0, 0, 0].tolist()


def assert_equal_crops(left, right):
  """Compares all arrays of batches."""
  assert len(left) == len(right) > 0
  for one, other in zip(left, right, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


def spoil_folder(root):
  """Three of the training and two of the test images cannot be read."""
  write_folder(root)
  image = root / "train/ant/00.png"
  image.write_bytes(image.read_bytes()[:-30])
  (root / "train/bee/01.png").write_text("text")
  (root / "train/bee/10.png").write_bytes(b"")
  (root / "val/ant/00.png").write_bytes(b"")
  (root / "val/cat/05.png").write_text("text")
  return root
