"""Images and labels: one interface, two kinds of source.

`Source` is what the train loop and the evaluators read from. Arrays
(`essl_jax.data.arrays`) serve sets that fit into memory and need no
TensorFlow; `essl_jax.data.streaming` reads any image classification set of
TensorFlow Datasets and is imported only when one is asked for.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from essl_jax.data.arrays import (
  ArraySource,
  load_digits,
  load_npz,
  take_sub_splits,
)
from essl_jax.errors import UsageError

__all__ = [
  "ArraySource",
  "Source",
  "load_digits",
  "load_npz",
  "make_source",
]


class Source(Protocol):
  """A labelled image set with a training and a test split.

  Attributes:
    num_classes: number of labels; labels are 0 .. num_classes - 1.
    image_shape: (height, width, 3) of every image.
  """

  num_classes: int
  image_shape: tuple[int, int, int]

  def num_examples(self, split: str) -> int:
    """Returns the number of examples of `split`, "train" or "test"."""

  def batches(
    self,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Streams shuffled batches of the training split without end.

    Step s belongs to epoch s // steps_per_epoch with steps_per_epoch =
    num_examples // batch_size; the rest of an epoch is dropped. The order of
    an epoch is a function of `seed` and its number alone, so the stream from
    `start_step` is the stream from 0 without its first `start_step` batches.

    Args:
      batch_size: global batch size, a multiple of `process_count`.
      seed: a number >= 0.
      start_step: the step of the first batch.
      process_index: whose share to yield.
      process_count: number of disjoint shares of every global batch.

    Returns:
      {"image": uint8 [batch_size / process_count, H, W, 3],
       "label": int32 [batch_size / process_count]} for every step.

    Raises:
      UsageError: the batch is larger than the training split or cannot be
        divided among the processes.
    """

  def evaluation_batches(
    self, split: str, batch_size: int
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example of `split` once, always in the same order.

    Args:
      split: "train" or "test".
      batch_size: examples in a batch; the last batch may be smaller.

    Returns:
      {"image": uint8 [n, H, W, 3], "label": int32 [n]}, n <= batch_size.
    """


def make_source(
  name: str,
  *,
  directory: str | None = None,
  on_device: bool = False,
  train_split: str = "train",
  test_split: str = "test",
  image_size: int | None = None,
) -> Source:
  """Opens an image set by name.

  Args:
    name: "digits" (scikit-learn's 8x8 digits, no download), a path ending in
      ".npz" (see `load_npz`), or the name of a TFDS image classification set
      such as "cifar10".
    directory: where TFDS sets are prepared; None is TFDS's own default.
    on_device: read a TFDS set into arrays once instead of streaming it.
      Digits and .npz files always are arrays.
    train_split: training split, possibly a part: "train[:5000]".
    test_split: test split, in the same notation.
    image_size: sides of the square that TFDS images are resized and cropped
      to; None keeps their shape.

  Returns:
    An `ArraySource` or a `TFDSSource`.

  Raises:
    UsageError: the set is unknown, missing, broken or of the wrong form.
  """
  if name == "digits" or name.endswith(".npz"):
    arrays = load_digits() if name == "digits" else load_npz(name)
    if image_size and arrays.image_shape[:2] != (image_size, image_size):
      height, width, _ = arrays.image_shape
      raise UsageError(
        f"data.image_size={image_size}, but the images of {name!r} are "
        f"{height}x{width} and arrays are not resized: leave it unset"
      )
    return take_sub_splits(arrays, train_split, test_split)
  # Imported here: TensorFlow's side of the package is not for everybody.
  from essl_jax.data.streaming import TFDSSource

  source = TFDSSource(
    name, directory, train_split, test_split, image_size=image_size
  )
  return source.as_arrays() if on_device else source
