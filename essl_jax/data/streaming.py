"""Image sets of TensorFlow Datasets, streamed with tf.data.

The order. A split of at most `SHUFFLE_BYTES` encoded is kept in memory as it
is stored and shuffled whole: an epoch is one exact permutation, a function of
(seed, epoch), and process p of n takes the p-th n-th of every global batch. A
larger split is shuffled by files and through a buffer of `SHUFFLE_BYTES`;
each process then reads and shuffles only its own n-th of the split, so there
the order is a function of (seed, epoch, n).
"""

from collections.abc import Iterator
import functools
from typing import Any

import numpy as np

from essl_jax.data.arrays import ArraySource
from essl_jax.data.checks import check_batches, check_split
from essl_jax.data.prepared import (
  check_tfds_split,
  import_tensorflow,
  open_builder,
)
from essl_jax.errors import UsageError

SHUFFLE_BYTES = 2**30
_FILES_AT_ONCE = 16
_READ_BATCH = 256
# Keeps the orders of two seeds apart for a million epochs.
_SEED_STRIDE = 1_000_003


class TFDSSource:
  """A `Source` over a TFDS image classification set.

  Attributes:
    num_classes: number of labels.
    image_shape: (H, W, 3).
  """

  def __init__(
    self,
    name: str,
    data_dir: str | None,
    train_split: str = "train",
    test_split: str = "test",
    image_size: int | None = None,
  ):
    """Opens the set, downloading it through TFDS if need be.

    With several processes on one file system, prepare the set before.

    Args:
      name: TFDS name, such as "cifar10".
      data_dir: directory of prepared sets; None is TFDS's default.
      train_split: training split or sub-split ("train[:5000]").
      test_split: test split or sub-split.
      image_size: resizes the shorter side to this many pixels (bilinear,
        antialiased) and crops the centre; None keeps images as they are.

    Raises:
      UsageError: the set is missing, has no images and labels, its images
        differ in size and `image_size` is None, or a split is unknown.
    """
    self._builder = open_builder(name, data_dir)
    self._splits = {"train": train_split, "test": test_split}
    self._sizes = {
      split: check_tfds_split(self._builder, part)
      for split, part in self._splits.items()
    }
    self.num_classes = _check_features(self._builder.info.features, name)
    shape = self._builder.info.features["image"].shape[:2]
    if image_size is None and None in shape:
      raise UsageError(
        f"the images of {name!r} differ in size: set --config.data.image_size "
        "to the side of the square to resize and crop them to"
      )
    if image_size is not None and image_size < 1:
      raise UsageError(f"data.image_size={image_size} must be at least 1")
    height, width = shape if image_size is None else (image_size, image_size)
    self.image_shape = (height, width, 3)
    self._resize = tuple(shape) != (height, width)

  def num_examples(self, split: str) -> int:
    """Returns the number of examples of `split`, "train" or "test"."""
    check_split(split)
    return self._sizes[split]

  def batches(
    self,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Streams training batches: see `essl_jax.data.Source.batches`."""
    steps = check_batches(
      batch_size=batch_size,
      seed=seed,
      start_step=start_step,
      num_examples=self._sizes["train"],
      process_index=process_index,
      process_count=process_count,
    )
    tf, _ = import_tensorflow()
    share = batch_size // process_count
    first_epoch, done = divmod(start_step, steps)
    shuffled, parts = self._shuffled(process_index, process_count)

    # TFDS's functions are wrapped in a way that AutoGraph warns about.
    @tf.autograph.experimental.do_not_convert
    def epoch_records(epoch: Any) -> Any:
      order = (seed % 2**40) * _SEED_STRIDE + epoch
      shares = shuffled(order).batch(share, drop_remainder=True)
      if parts > 1:
        shares = shares.take(steps * parts).shard(parts, process_index)
      # Skipped as stored: resuming decodes nothing twice.
      skip = tf.where(epoch == first_epoch, tf.constant(done, tf.int64), 0)
      return shares.take(steps).skip(skip).unbatch()

    records = tf.data.Dataset.range(first_epoch, 2**62).flat_map(epoch_records)
    return iter(self._decoded(records, share).as_numpy_iterator())

  def evaluation_batches(
    self, split: str, batch_size: int
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields all once: see `essl_jax.data.Source.evaluation_batches`."""
    check_split(split)
    records = self._records(self._splits[split])
    return iter(self._decoded(records, batch_size).as_numpy_iterator())

  def as_arrays(self) -> ArraySource:
    """Reads the whole set into memory once.

    Returns:
      The same images and labels, in the order of `evaluation_batches`.

    Raises:
      UsageError: a label is missing (TFDS writes -1).
    """

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
      images = np.empty((self._sizes[split], *self.image_shape), np.uint8)
      labels = np.empty(self._sizes[split], np.int32)
      start = 0
      for batch in self.evaluation_batches(split, _READ_BATCH):
        part = slice(start, start + len(batch["label"]))
        images[part], labels[part] = batch["image"], batch["label"]
        start = part.stop
      return images, labels

    return ArraySource(
      *read("train"), *read("test"), num_classes=self.num_classes
    )

  def _shuffled(self, process_index: int, process_count: int) -> Any:
    """Returns (order seed -> shuffled records, parts to divide them into)."""
    _, tfds = import_tensorflow()
    info, split = self._builder.info, self._splits["train"]
    stored = sum(part.num_examples for part in info.splits.values())
    example_bytes = max(1, info.dataset_size // stored)
    size = self._sizes["train"]
    buffer = max(1, SHUFFLE_BYTES // example_bytes)
    if size <= buffer:
      kept = self._records(split).cache()
      return functools.partial(
        kept.shuffle, size, reshuffle_each_iteration=False
      ), process_count
    if process_count > 1:
      split = tfds.even_splits(split, process_count, drop_remainder=True)[
        process_index
      ]

    def shuffle(order: Any) -> Any:
      return self._records(split, order).shuffle(
        buffer, seed=order, reshuffle_each_iteration=False
      )

    return shuffle, 1

  def _records(self, split: Any, file_order: Any = None) -> Any:
    """Reads encoded images and labels, the files in order or shuffled."""
    tf, tfds = import_tensorflow()
    return self._builder.as_dataset(
      split=split,
      shuffle_files=file_order is not None,
      decoders={
        key: tfds.decode.SkipDecoding()
        for key, feature in self._builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
      },
      read_config=tfds.ReadConfig(
        options=_deterministic(tf),
        shuffle_seed=file_order,
        shuffle_reshuffle_each_iteration=False,
        interleave_cycle_length=_FILES_AT_ONCE,
        try_autocache=False,
        skip_prefetch=True,
        # Sets stored in order are shuffled here as well.
        enable_ordering_guard=False,
      ),
    )

  def _decoded(self, records: Any, batch_size: int) -> Any:
    """Decodes, batches and prefetches records."""
    tf, _ = import_tensorflow()

    def decode(record: Any) -> Any:
      image = tf.io.decode_image(
        record["image"], channels=3, expand_animations=False
      )
      if self._resize:
        image = _resize_and_crop(image, self.image_shape[0], tf)
      image = tf.ensure_shape(image, self.image_shape)
      return {"image": image, "label": tf.cast(record["label"], tf.int32)}

    return (
      records.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
      .batch(batch_size)
      .with_options(_deterministic(tf))
      .prefetch(tf.data.AUTOTUNE)
    )


def _deterministic(tf: Any) -> Any:
  options = tf.data.Options()
  options.deterministic = True
  return options


def _check_features(features: Any, name: str) -> int:
  """Returns the number of classes, or raises UsageError."""
  _, tfds = import_tensorflow()
  found = list(features) if hasattr(features, "keys") else []
  image = features["image"] if "image" in found else None
  label = features["label"] if "label" in found else None
  if not (
    isinstance(image, tfds.features.Image)
    and image.np_dtype == np.uint8
    and isinstance(label, tfds.features.ClassLabel)
    and label.num_classes
  ):
    raise UsageError(
      f"{name!r} is no image classification set (it has "
      f"{', '.join(found) or 'other data'}): an 8-bit 'image' and a 'label' "
      "with a known number of classes are needed"
    )
  return label.num_classes


def _resize_and_crop(image: Any, size: int, tf: Any) -> Any:
  """Resizes the shorter side of uint8 [H, W, 3] and crops the centre."""
  sides = tf.cast(tf.shape(image)[:2], tf.float32)
  scaled = tf.round(sides * (size / tf.reduce_min(sides)))
  scaled = tf.maximum(tf.cast(scaled, tf.int32), size)
  resized = tf.image.resize(image, scaled, method="bilinear", antialias=True)
  resized = tf.cast(tf.round(tf.clip_by_value(resized, 0, 255)), tf.uint8)
  top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
  return resized[top : top + size, left : left + size]
