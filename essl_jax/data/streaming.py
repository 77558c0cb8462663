"""Streams image sets of TensorFlow Datasets with tf.data.

The order depends on the split's size. A split of at most `SHUFFLE_BYTES` is
kept in memory, still encoded. An epoch is then one exact permutation, a
function of (seed, epoch) and the same as for arrays, and process p of n takes
the p-th of n equal parts of every global batch. A larger split is shuffled by
files and through a buffer of `SHUFFLE_BYTES`. Each process then reads and
shuffles only its own n-th of the split, so the order is a function of
(seed, epoch, n).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import copy
from typing import Any, Self

import numpy as np
from PIL import Image

from essl_jax import config as config_lib
from essl_jax.augment import View
from essl_jax.data import batches as batches_lib
from essl_jax.data import records as records_lib
from essl_jax.data.checks import (
  check_crops,
  check_file_names,
  check_share,
  check_split,
)
from essl_jax.data.crops import decode, quieten
from essl_jax.data.labels import check_range
from essl_jax.data.levels import BrokenImageError
from essl_jax.data.limits import Room
from essl_jax.data.order import Stream
from essl_jax.data.prepared import check_tfds_split, import_tensorflow
from essl_jax.errors import UsageError

SHUFFLE_BYTES = 2**30
# Keeps the orders of two seeds apart for a million epochs.
_SEED_STRIDE = 1_000_003


class TFDSSource:
  """A `Source` over a TFDS set stored as TFRecord, from `open_tfds`.

  Attributes:
    num_classes: number of labels.
    image_shape: (H, W, 3) of evaluation images.
    differs_in_size: whether training needs `crops`.
    broken: empty for each split: a broken record ends the run.
    is_stored_shuffled: whether TFDS shuffled the set when writing it.
    classes: names of the classes.
  """

  broken: Mapping[str, tuple[str, ...]] = {"train": (), "test": ()}
  classes: Sequence[str] = ()

  def __init__(
    self,
    builder: Any,
    splits: dict[str, str],
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    resize: int | None,
    differs_in_size: bool,
    max_pixels: int = config_lib.Data.max_pixels,
  ):
    """Wraps an open set.

    Args:
      builder: from `essl_jax.data.prepared.open_builder`.
      splits: TFDS's names of "train" and "test".
      num_classes: number of labels.
      image_shape: (H, W, 3) of evaluation images.
      resize: length of the shorter side of evaluation images before their
        centre is cropped; None if all images have `image_shape`.
      differs_in_size: whether images differ in size.
      max_pixels: limit for an image, and for all images decoded at a time.
    """
    quieten(max_pixels)
    self._room = Room(max_pixels)
    self._builder = builder
    self._splits = splits
    self._sizes = {
      split: check_tfds_split(builder, part) for split, part in splits.items()
    }
    self.num_classes = num_classes
    self.image_shape = image_shape
    self.differs_in_size = differs_in_size
    self._resize = resize
    self._rows: dict[str, np.ndarray] = {}
    self.is_stored_shuffled = not builder.info.disable_shuffling

  def num_examples(self, split: str) -> int:
    """Returns the number of examples of `split`, "train" or "test"."""
    check_split(split)
    return self._sizes[split]

  def batches(
    self,
    *,
    crops: Mapping[str, View] | None = None,
    windows: bool = False,
    shared_by: Mapping[str, int] | None = None,
    **asked: int,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Streams training batches: see `essl_jax.data.Source.batches`."""
    check_crops(crops)
    stream = Stream(self._sizes["train"], **asked)
    if self._fits():
      records = records_lib.gather(self._taken(), stream.rows())
    else:
      records = self._shuffled(stream)
    if crops is None:
      return self._whole_images(records, stream.share)
    return self._threaded(
      records,
      stream.share,
      lambda step, load, _: batches_lib.crops_job(
        load, stream, step, crops, windows=windows, shared_by=shared_by
      ),
      stream.start_step,
    )

  def evaluation_batches(
    self,
    split: str,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields all once: see `essl_jax.data.Source.evaluation_batches`."""
    rows = check_share(self.num_examples(split), process_index, process_count)
    records = self._taken(split)
    if process_count > 1:
      # Still encoded: records before the share are read but not decoded.
      records = records.skip(rows.start).take(len(rows))
    return self._whole_images(records, batch_size)

  def labels(self) -> np.ndarray:
    """Reads the training labels: see `essl_jax.data.subsets.Divisible`."""
    records = self._taken().map(lambda record: record["label"])
    return self._checked(np.array(list(records.as_numpy_iterator())))

  def _checked(self, labels: np.ndarray) -> np.ndarray:
    return check_range(labels, self.num_classes, self._builder.info.full_name)

  def names(self) -> list[str]:
    """Reads the training images' file names."""
    check_file_names(
      set(self._builder.info.features), self._builder.info.full_name
    )
    records = self._taken().map(lambda record: record["file_name"])
    tf, _ = import_tensorflow()
    return [tf.compat.as_text(x) for x in records.as_numpy_iterator()]

  def take(self, rows: np.ndarray, split: str = "train") -> Self:
    """Returns a source with these images of a split only.

    Training keeps them in memory, still encoded: 1.4 GB for 1% of ImageNet.
    Finding them reads the split up to the last of them.
    """
    part = copy.copy(self)
    own = self._rows[split][rows] if split in self._rows else rows
    part._rows = self._rows | {split: own}
    part._sizes = self._sizes | {split: len(rows)}
    return part

  def _taken(self, split: str = "train") -> Any:
    """Reads a split's records, or only the taken ones."""
    records = records_lib.read(self._builder, self._splits[split])
    if split not in self._rows:
      return records
    return records_lib.choose(records, self._rows[split])

  @property
  def _buffer(self) -> int:
    """Number of records that fit into `SHUFFLE_BYTES`."""
    info = self._builder.info
    stored = sum(part.num_examples for part in info.splits.values())
    return max(1, SHUFFLE_BYTES // max(1, info.dataset_size // stored))

  def _fits(self) -> bool:
    """Whether the training records are kept in memory."""
    return self._sizes["train"] <= self._buffer or "train" in self._rows

  def _shuffled(self, stream: Stream) -> Any:
    """Shuffles one process's training records by files and in a buffer."""
    tf, tfds = import_tensorflow()
    split = self._splits["train"]
    if stream.process_count > 1:
      shares = tfds.even_splits(
        split, stream.process_count, drop_remainder=True
      )
      split = shares[stream.process_index]
    first_epoch, done = divmod(stream.start_step, stream.steps)

    # AutoGraph would warn about the way TFDS wraps its functions.
    @tf.autograph.experimental.do_not_convert
    def epoch_records(epoch: Any) -> Any:
      order = (stream.seed % 2**40) * _SEED_STRIDE + epoch
      shuffled = records_lib.read(self._builder, split, order).shuffle(
        self._buffer, seed=order, reshuffle_each_iteration=False
      )
      # Skips encoded records: resuming decodes nothing twice.
      skip = tf.where(epoch == first_epoch, tf.constant(done, tf.int64), 0)
      return shuffled.take(stream.steps * stream.share).skip(
        skip * stream.share
      )

    return tf.data.Dataset.range(first_epoch, 2**62).flat_map(epoch_records)

  def _whole_images(self, records: Any, batch_size: int) -> Iterator[Any]:
    """Decodes records to batches of evaluation images."""
    if self._resize is not None:
      return self._threaded(
        records,
        batch_size,
        lambda _, load, count: batches_lib.images_job(
          load, count, self.image_shape, self._resize
        ),
      )
    tf, _ = import_tensorflow()

    def decode_record(record: Any) -> Any:
      image = tf.io.decode_image(
        record["image"], channels=3, expand_animations=False
      )
      image = tf.ensure_shape(image, self.image_shape)
      return {"image": image, "label": record["label"]}

    decoded = records.map(decode_record, num_parallel_calls=tf.data.AUTOTUNE)
    batches = records_lib.in_batches(decoded, batch_size).as_numpy_iterator()
    return (
      batch | {"label": self._checked(batch["label"])} for batch in batches
    )

  def _threaded(
    self,
    records: Any,
    batch_size: int,
    make_job: Callable[[int, batches_lib.Load, int], batches_lib.Job],
    first_step: int = 0,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Reads records with tf.data and decodes them with PIL."""
    encoded = records_lib.images_and_labels(records)
    stored = records_lib.in_batches(encoded, batch_size).as_numpy_iterator()

    def job(step: int, batch: dict[str, np.ndarray]) -> batches_lib.Job:
      labels = self._checked(batch["label"])

      def load(row: int) -> tuple[Image.Image, int]:
        try:
          return decode(batch["image"][row], self._room), labels[row]
        except BrokenImageError as error:
          raise UsageError(
            f"an image of {self._builder.info.full_name} cannot be decoded "
            f"({error}): prepare the set again"
          ) from error

      return make_job(step, load, len(labels))

    return batches_lib.run(
      job(step, batch) for step, batch in enumerate(stored, first_step)
    )
