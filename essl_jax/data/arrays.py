"""Image sets held in host memory as NumPy arrays."""

from collections.abc import Iterator, Mapping, Sequence
import copy
from typing import Any, Self

import numpy as np

from essl_jax import config as config_lib
from essl_jax.augment import View
from essl_jax.data import labels as labels_lib
from essl_jax.data.checks import SPLITS, check_share, check_split, parse_split
from essl_jax.data.order import Stream
from essl_jax.errors import UsageError


class ArraySource:
  """A `Source` over host arrays.

  Attributes:
    train_images: uint8 [N, H, W, 3].
    train_labels: int32 [N].
    test_images: uint8 [M, H, W, 3].
    test_labels: int32 [M].
    num_classes: number of labels.
    classes: the original labels in the given arrays, [num_classes], or the
      names of the classes.
    image_shape: (H, W, 3).
    differs_in_size: False: crops are drawn on the device.
    broken: by split, images that could not be read into the arrays.
    is_stored_shuffled: False: arrays may be in any order.
  """

  classes: np.ndarray | Sequence[str]
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
    """Checks the arrays and converts images to RGB and labels to 0 .. K - 1.

    Args:
      train_images: uint8 [N, H, W, 3], or grayscale [N, H, W] or
        [N, H, W, 1], which is repeated to three channels.
      train_labels: integers [N], all -1 if the training images have no labels;
        `labels.number` numbers them.
      test_images: like `train_images`, with the same H and W.
      test_labels: integers [M].
      num_classes: number of labels, which must then be 0 .. num_classes - 1;
        None counts and numbers the labels found.

    Raises:
      UsageError: an array has a wrong shape or dtype, lengths differ, or a
        label is out of range or appears only among the test labels.
    """
    self.train_images = _to_rgb(train_images, "train_images")
    self.test_images = _to_rgb(test_images, "test_images")
    if self.train_images.shape[1:] != self.test_images.shape[1:]:
      raise UsageError(
        f"train_images are {self.train_images.shape[1:]} and test_images "
        f"{self.test_images.shape[1:]}: all images must have one shape"
      )
    self.train_labels, self.test_labels, self.classes = labels_lib.number(
      labels_lib.check_array(
        train_labels, "train_labels", len(self.train_images)
      ),
      labels_lib.check_array(test_labels, "test_labels", len(self.test_images)),
      num_classes,
    )
    self.num_classes = len(self.classes)
    height, width = self.train_images.shape[1:3]
    self.image_shape = (height, width, 3)

  def num_examples(self, split: str) -> int:
    """Returns the number of examples of `split`, "train" or "test"."""
    return len(self._arrays(split)[1])

  def indices(self, **asked: int) -> Iterator[np.ndarray]:
    """Streams the batches of `batches` as positions in the arrays.

    For images that are in device memory and are gathered there.

    Args:
      **asked: as for `essl_jax.data.Source.batches`, without the crops.

    Returns:
      int32 [batch_size / process_count] for every step, without end.

    Raises:
      UsageError: see `essl_jax.data.Source.batches`.
    """
    return Stream(len(self.train_images), **asked).rows()

  def batches(
    self, *, crops: Mapping[str, View] | None = None, **asked: Any
  ) -> Iterator[dict[str, np.ndarray]]:
    """Streams training batches: see `essl_jax.data.Source.batches`."""
    if crops is not None:
      raise ValueError(
        f"crops={sorted(crops)}, but arrays hold images of one size: read "
        "whole images and crop them on the device"
      )
    return (
      {"image": self.train_images[rows], "label": self.train_labels[rows]}
      for rows in self.indices(**asked)
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
    """Raises UsageError: arrays have no file names."""
    raise UsageError(
      "images in arrays have no file names: set config.finetune.labels"
      " instead of config.finetune.label_list"
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


def open_arrays(settings: config_lib.Data, whole: ArraySource) -> ArraySource:
  """Selects the parts of a set that a config asks for.

  Args:
    settings: `config.data`.
    whole: the set.

  Returns:
    A source with the same classes, even if the parts lack some.

  Raises:
    UsageError: a split does not exist, images would have to be resized, or
      `dir` is set although arrays need no folder.
  """
  if settings.dir:
    raise UsageError(
      f"data.dir={settings.dir!r}, but {settings.name!r} does not use a"
      " folder: leave it unset, or choose another data.name"
    )
  height, width, _ = whole.image_shape
  size = settings.image_size
  if size and (height, width) != (size, size):
    raise UsageError(
      f"data.image_size={size}, but the images of {settings.name!r} are"
      f" {height}x{width} and arrays are not resized: leave it unset"
    )
  if settings.resize_size not in (None, size):
    raise UsageError(
      f"data.resize_size={settings.resize_size}, but arrays like"
      f" {settings.name!r} are not resized: leave it unset"
    )
  sizes = {split: whole.num_examples(split) for split in SPLITS}

  def take(split: str) -> tuple[np.ndarray, np.ndarray]:
    parts = [
      [array[part] for array in whole._arrays(name)]
      for name, part in parse_split(split, sizes)
    ]
    images, labels = (
      of[0] if len(of) == 1 else np.concatenate(of)
      for of in zip(*parts, strict=True)
    )
    return images, labels

  part = ArraySource(
    *take(settings.train_split),
    *take(settings.test_split),
    num_classes=whole.num_classes,
  )
  part.classes = whole.classes
  return part


def _to_rgb(images: np.ndarray, name: str) -> np.ndarray:
  """Converts images to uint8 [N, H, W, 3]; UsageError names a wrong array."""
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
