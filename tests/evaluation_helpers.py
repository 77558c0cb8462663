"""What the tests of evaluation share: a source, an encoder, features."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

PIXELS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


class FakeSource:
  """Images whose colour tells the class, in memory."""

  num_classes = 3
  differs_in_size = False
  broken: dict[str, list[str]] = {"train": [], "test": []}

  def __init__(self, train=70, test=37, size=8):
    rng = np.random.default_rng(0)
    self.image_shape = (size, size, 3)
    self.data = {}
    for split, number in (("train", train), ("test", test)):
      labels = rng.integers(0, 3, number).astype(np.int32)
      images = rng.integers(0, 90, (number, size, size, 3)).astype(np.uint8)
      images[np.arange(number), :, :, labels] += 120
      self.data[split] = images, labels
    self.seeds: list[int] = []

  def num_examples(self, split):
    """Number of images."""
    return len(self.data[split][0])

  def batches(
    self,
    *,
    batch_size,
    seed,
    start_step=0,
    process_index=0,
    process_count=1,
  ):
    """Endless, shuffled, without the smaller last batch."""
    assert (process_index, process_count) == (0, 1)
    self.seeds.append(seed)
    return itertools.islice(self._stream(batch_size, seed), start_step, None)

  def _stream(self, batch_size, seed):
    images, labels = self.data["train"]
    rng = np.random.default_rng(seed)
    while True:
      order = rng.permutation(len(images))
      for first in range(0, len(order) - batch_size + 1, batch_size):
        rows = order[first : first + batch_size]
        yield {"image": images[rows], "label": labels[rows]}

  def evaluation_batches(
    self, split, batch_size, process_index=0, process_count=1
  ):
    """In order, the last smaller."""
    assert (process_index, process_count) == (0, 1)
    images, labels = self.data[split]
    for first in range(0, len(images), batch_size):
      rows = slice(first, first + batch_size)
      yield {"image": images[rows], "label": labels[rows]}


def encode(variables, images):
  """A 3x3 convolution and the mean over positions."""
  dimensions = ("NHWC", "HWIO", "NHWC")
  maps = jax.lax.conv_general_dilated(
    images, variables["kernel"], (1, 1), "SAME", dimension_numbers=dimensions
  )
  return jnp.mean(jax.nn.relu(maps), axis=(1, 2))


def make_variables():
  """A kernel for `encode`."""
  rng = np.random.default_rng(1)
  return {"kernel": rng.standard_normal((3, 3, 3, 16)).astype(np.float32)}


def clusters(number, width=32, classes=7, spread=0.1, seed=0):
  """Separable features and labels."""
  rng = np.random.default_rng(seed)
  centres = np.random.default_rng(99).standard_normal((classes, width))
  labels = rng.integers(0, classes, number)
  noise = spread * rng.standard_normal((number, width))
  return (centres[labels] + noise).astype(np.float32), labels
