"""Image sets held in host memory as NumPy arrays."""

from collections.abc import Iterator, Mapping, Sequence
import copy
from typing import Any, Self

import numpy as np

from essl_jax.data.checks import (
  check_batches,
  check_share,
  check_split,
  parse_split,
)
from essl_jax.data.order import batch_indices
from essl_jax.errors import UsageError


class ArraySource:
  """A `Source` over host arrays.

  Attributes:
    train_images: uint8 [N, H, W, 3].
    train_labels: int32 [N].
    test_images: uint8 [M, H, W, 3].
    test_labels: int32 [M].
    num_classes: number of labels.
    image_shape: (H, W, 3).
    differs_in_size: False: crops are drawn on the device.
    broken: by split, images that could not be read into the arrays.
    is_stored_shuffled: False: arrays may be in any order.
  """

  differs_in_size = False
  is_stored_shuffled = False
  broken: Mapping[str, Sequence[str]] = {"train": (), "test": ()}

  def __init__(
    self,
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int | None = None,
  ):
    """Checks the arrays and brings them to one form.

    Args:
      train_images: uint8 [N, H, W, 3], or grayscale [N, H, W] or
        [N, H, W, 1], which is repeated to three channels.
      train_labels: integers [N] in 0 .. num_classes - 1, or -1 for all where
        the training images have none.
      test_images: like `train_images`, with the same H and W.
      test_labels: integers [M].
      num_classes: number of labels; None takes the largest label plus one.

    Raises:
      UsageError: an array has another shape or dtype, lengths differ, or a
        label is out of range.
    """
    self.train_images = _to_rgb(train_images, "train_images")
    self.test_images = _to_rgb(test_images, "test_images")
    if self.train_images.shape[1:] != self.test_images.shape[1:]:
      raise UsageError(
        f"train_images are {self.train_images.shape[1:]} and test_images "
        f"{self.test_images.shape[1:]}: all images must have one shape"
      )
    self.train_labels = _to_labels(
      train_labels, "train_labels", len(self.train_images)
    )
    self.test_labels = _to_labels(
      test_labels, "test_labels", len(self.test_images)
    )
    largest = max(int(self.train_labels.max()), int(self.test_labels.max()))
    self.num_classes = largest + 1 if num_classes is None else num_classes
    if largest >= self.num_classes:
      raise UsageError(
        f"a label is {largest}, but num_classes={self.num_classes}: labels "
        "must be 0 .. num_classes - 1"
      )
    height, width = self.train_images.shape[1:3]
    self.image_shape = (height, width, 3)

  def num_examples(self, split: str) -> int:
    """Returns the number of examples of `split`, "train" or "test"."""
    return len(self._arrays(split)[1])

  def indices(
    self, *, batch_size: int, seed: int, start_step: int = 0
  ) -> Iterator[np.ndarray]:
    """Streams the global batches of `batches` as positions in the arrays.

    For images that stay in device memory and are gathered there.

    Args:
      batch_size: global batch size.
      seed: a number >= 0.
      start_step: the step of the first batch.

    Returns:
      int32 [batch_size] for every step, without end.

    Raises:
      UsageError: the batch is larger than the training split.
    """
    size = len(self.train_images)
    steps = check_batches(
      batch_size=batch_size,
      seed=seed,
      start_step=start_step,
      num_examples=size,
    )
    return batch_indices(size, steps, batch_size, seed, start_step)

  def batches(
    self,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    crops: Mapping[str, Any] | None = None,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Streams training batches: see `essl_jax.data.Source.batches`."""
    if crops is not None:
      raise ValueError(
        f"crops={sorted(crops)}, but arrays hold images of one size: take "
        "whole images and crop them on the device"
      )
    size = len(self.train_images)
    steps = check_batches(
      batch_size=batch_size,
      seed=seed,
      start_step=start_step,
      num_examples=size,
      process_index=process_index,
      process_count=process_count,
    )
    share = batch_size // process_count
    mine = slice(process_index * share, (process_index + 1) * share)
    return (
      {
        "image": self.train_images[positions[mine]],
        "label": self.train_labels[positions[mine]],
      }
      for positions in batch_indices(size, steps, batch_size, seed, start_step)
    )

  def evaluation_batches(
    self,
    split: str,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields all once: see `essl_jax.data.Source.evaluation_batches`."""
    images, labels = self._arrays(split)
    rows = check_share(len(labels), process_index, process_count)
    stops = (min(start + batch_size, rows.stop) for start in rows[::batch_size])
    return (
      {"image": images[start:stop], "label": labels[start:stop]}
      for start, stop in zip(rows[::batch_size], stops, strict=True)
    )

  def labels(self) -> np.ndarray:
    """Returns the training labels: see `essl_jax.data.subsets.Divisible`."""
    return self.train_labels

  def names(self) -> list[str]:
    """Refuses: arrays have no file names."""
    raise UsageError(
      "the images of arrays have no file names: set config.finetune.labels in"
      " place of config.finetune.label_list"
    )

  def take(self, rows: np.ndarray, split: str = "train") -> Self:
    """Returns a source with these images of a split only."""
    part = copy.copy(self)
    images, labels = (x[rows] for x in self._arrays(split))
    if split == "train":
      part.train_images, part.train_labels = images, labels
    else:
      part.test_images, part.test_labels = images, labels
    return part

  def _arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
    check_split(split)
    if split == "train":
      return self.train_images, self.train_labels
    return self.test_images, self.test_labels


def take_sub_splits(
  source: ArraySource, train_split: str, test_split: str
) -> ArraySource:
  """Returns a source over parts of the splits of `source`.

  Args:
    source: the whole set.
    train_split: for instance "train" or "train[:500]".
    test_split: for instance "test[:20%]" or "train[500:]".

  Returns:
    A source with the same number of classes, whatever labels are left.

  Raises:
    UsageError: see `essl_jax.data.checks.parse_split`.
  """
  sizes = {split: source.num_examples(split) for split in ("train", "test")}

  def take(split: str) -> tuple[np.ndarray, np.ndarray]:
    name, part = parse_split(split, sizes)
    images, labels = source._arrays(name)
    return images[part], labels[part]

  return ArraySource(
    *take(train_split), *take(test_split), num_classes=source.num_classes
  )


def _to_rgb(images: np.ndarray, name: str) -> np.ndarray:
  """Returns uint8 [N, H, W, 3], or raises UsageError naming the array."""
  images = np.asarray(images)
  channels = images.shape[3] if images.ndim == 4 else 1
  if (
    images.dtype != np.uint8
    or images.ndim not in (3, 4)
    or channels not in (1, 3)
    or 0 in images.shape
  ):
    raise UsageError(
      f"{name} is {images.dtype} {list(images.shape)}: images must be uint8 "
      "[N, H, W, 3], or grayscale [N, H, W] or [N, H, W, 1]"
    )
  if channels == 3:
    return images
  return np.repeat(images.reshape(*images.shape[:3], 1), 3, axis=-1)


def _to_labels(labels: np.ndarray, name: str, length: int) -> np.ndarray:
  """Returns int32 [length], or raises UsageError naming the array."""
  labels = np.asarray(labels)
  if labels.shape != (length,) or not np.issubdtype(labels.dtype, np.integer):
    raise UsageError(
      f"{name} is {labels.dtype} {list(labels.shape)}: labels must be "
      f"integers [{length}], one for each image"
    )
  is_unlabelled = name == "train_labels" and np.all(labels == -1)
  if labels.min() < 0 and not is_unlabelled:
    raise UsageError(
      f"{name} holds {labels.min()}: labels must be integers from 0 on"
    )
  return labels.astype(np.int32)
