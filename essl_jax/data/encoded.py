"""Sources that read encoded images one by one, in any order.

An epoch is one exact permutation of all images, a function of (seed, epoch).
Process p of n takes the p-th of n equal parts of every global batch. A stream
can start at any step without reading earlier images.
"""

from collections.abc import Iterator, Mapping, Sequence
import copy
import sys
import threading
from typing import Protocol, Self

import numpy as np
from PIL import Image

from essl_jax import config as config_lib
from essl_jax.augment import View
from essl_jax.data import batches as batches_lib
from essl_jax.data.checks import SPLITS, check_crops, check_share, check_split
from essl_jax.data.crops import decode, quieten
from essl_jax.data.levels import BrokenImageError, Levels, UnclearLevelsError
from essl_jax.data.limits import NotReadableError, Room
from essl_jax.data.order import Stream
from essl_jax.errors import UsageError
from essl_jax.texts import first_line, printable

# An uncompressed image of four channels.
_BYTES_A_PIXEL = 4
_UNREADABLE = (FileNotFoundError, IsADirectoryError, PermissionError)


class EncodedImages(Protocol):
  """Encoded images and their labels."""

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    """Reads an encoded image and its label."""

  def size(self, index: int) -> int:
    """Returns the bytes of an encoded image, without opening it."""

  def name(self, index: int) -> str:
    """Returns an image's name for messages, such as its path."""

  def labels(self) -> np.ndarray:
    """Returns all labels, int32 [N]."""

  def file_names(self) -> list[str]:
    """Returns `class/name` or `name` of every image; may raise UsageError."""


class EncodedSource:
  """A `Source` over encoded images with random access.

  An image that cannot be decoded is reported on stderr once. In training the
  next readable image of the epoch's order replaces it, so the other images of
  each step stay the same; evaluation leaves it out.

  Attributes:
    num_classes: number of labels.
    image_shape: (H, W, 3) of evaluation images.
    differs_in_size: whether training needs `crops`.
    broken: names of unreadable images found so far, by split.
    is_stored_shuffled: False: random access costs nothing extra.
    classes: names of the classes; empty if they have none.
  """

  is_stored_shuffled = False
  classes: Sequence[str] = ()

  def __init__(
    self,
    images: Mapping[str, EncodedImages],
    rows: Mapping[str, np.ndarray],
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    resize: int | None,
    differs_in_size: bool,
    max_pixels: int = config_lib.Data.max_pixels,
    white_level: float | None = None,
  ):
    """Wraps the images and checks that one of each split can be read.

    Args:
      images: the images of "train" and "test".
      rows: the rows of `images` in each split.
      num_classes: number of labels.
      image_shape: (H, W, 3) of evaluation images.
      resize: length of the shorter side of evaluation images before their
        centre is cropped; None if all images have `image_shape`.
      differs_in_size: whether images differ in size.
      max_pixels: limit for an image, and for all images decoded at a time.
      white_level: of images of more than eight bits, if known.

    Raises:
      UsageError: no image of a split can be read, or its range of levels is
        unknown.
    """
    quieten(max_pixels)
    self._decoded = Room(max_pixels)
    self._read = Room(_BYTES_A_PIXEL * max_pixels)
    self._levels = Levels(white_level)
    self.images = images
    self._rows = dict(rows)
    self.num_classes = num_classes
    self.image_shape = image_shape
    self.differs_in_size = differs_in_size
    self._resize = resize
    self._forget_broken()
    for split in SPLITS:
      self._stand_in(split, np.arange(self.num_examples(split)), 0)

  def _forget_broken(self) -> None:
    self._unreadable: dict[str, set[int]] = {split: set() for split in SPLITS}
    self._lock = threading.Lock()
    self.broken: dict[str, list[str]] = {split: [] for split in SPLITS}

  def num_examples(self, split: str) -> int:
    """Returns the number of images of a split, including broken ones."""
    check_split(split)
    return len(self._rows[split])

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
    stream = Stream(self.num_examples("train"), **asked)

    def job(step: int, order: np.ndarray, place: int) -> batches_lib.Job:
      load = lambda row: self._stand_in("train", order, place + row)
      if crops is None:
        return batches_lib.images_job(
          load, stream.share, self.image_shape, self._resize
        )
      return batches_lib.crops_job(
        load, stream, step, crops, windows=windows, shared_by=shared_by
      )

    return batches_lib.run(
      job(step, *place)
      for step, place in enumerate(stream.places(), stream.start_step)
    )

  def evaluation_batches(
    self,
    split: str,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields all once: see `essl_jax.data.Source.evaluation_batches`."""
    size = self.num_examples(split)
    share = check_share(size, process_index, process_count)
    return self._evaluation_batches(split, batch_size, share)

  def labels(self) -> np.ndarray:
    """Returns the training labels: see `essl_jax.data.subsets.Divisible`."""
    return self.images["train"].labels()[self._rows["train"]]

  def names(self) -> list[str]:
    """Returns the training images' file names, `class/name` or `name`."""
    names = self.images["train"].file_names()
    return [names[index] for index in self._rows["train"]]

  def take(self, rows: np.ndarray, split: str = "train") -> Self:
    """Returns a source with these images of a split only."""
    part = copy.copy(self)
    part._rows = self._rows | {split: self._rows[split][rows]}
    part._forget_broken()
    return part

  def _evaluation_batches(
    self, split: str, batch_size: int, share: range
  ) -> Iterator[dict[str, np.ndarray]]:
    """Closes the gaps of unreadable images: only the last batch is smaller."""

    def job(start: int) -> batches_lib.Job:
      count = min(batch_size, share.stop - start)
      is_read = np.ones(count, bool)

      def load(row: int) -> tuple[Image.Image, int]:
        found = self.read(split, start + row)
        is_read[row] = found is not None
        # A placeholder, dropped below.
        return found or (Image.new("RGB", self.image_shape[1::-1]), 0)

      made = batches_lib.images_job(load, count, self.image_shape, self._resize)
      made.batch["is_read"] = is_read
      return made

    rest: dict[str, np.ndarray] = {}
    for batch in batches_lib.run(job(start) for start in share[::batch_size]):
      is_read = batch.pop("is_read")
      if not is_read.all():
        batch = {name: x[is_read] for name, x in batch.items()}
      if rest:
        batch = {
          name: np.concatenate([rest[name], batch[name]]) for name in rest
        }
      if len(batch["label"]) >= batch_size:
        yield {name: x[:batch_size] for name, x in batch.items()}
        batch = {name: x[batch_size:] for name, x in batch.items()}
      rest = batch if len(batch["label"]) else {}
    if rest:
      yield rest

  def _stand_in(
    self, split: str, order: np.ndarray, position: int
  ) -> tuple[Image.Image, int]:
    """Reads the first readable image of an order, starting at a position."""
    for place in range(position, position + len(order)):
      found = self.read(split, int(order[place % len(order)]))
      if found is not None:
        return found
    first = self.images[split].name(int(self._rows[split][0]))
    raise UsageError(
      f"none of the {len(order)} {split} images can be read; the first is "
      f"{first}: give a folder or set of intact images"
    )

  def read(self, split: str, row: int) -> tuple[Image.Image, int] | None:
    """Returns a decoded image and its label; reports a broken one once."""
    index = int(self._rows[split][row])
    if index in self._unreadable[split]:
      return None
    try:
      return self._decode(self.images[split], index)
    except UnclearLevelsError as error:
      name = self.images[split].name(index)
      raise UsageError(f"{name}: {first_line(error)}") from error
    # Other failures of a disk or network may be temporary. They end the run,
    # which can resume exactly, instead of changing the training data.
    except (BrokenImageError, NotReadableError, *_UNREADABLE) as error:
      self._report(split, index, first_line(error))
      return None

  def _decode(
    self, images: EncodedImages, index: int
  ) -> tuple[Image.Image, int]:
    """Reads and decodes an image once there is room for it."""
    size = images.size(index)
    if size > self._read.size:
      raise BrokenImageError(
        f"it has {size:,} bytes, but config.data.max_pixels allows"
        f" {self._read.size:,}"
      )
    self._read.take(size)
    try:
      encoded, label = images[index]
      return decode(encoded, self._decoded, self._levels), label
    finally:
      self._read.give_back(size)

  def _report(self, split: str, index: int, reason: str) -> None:
    with self._lock:
      if index in self._unreadable[split]:
        return
      self._unreadable[split].add(index)
      name = self.images[split].name(index)
      self.broken[split].append(name)
      line = f"essl_jax: {name} is broken, left out: {reason}"
      print(printable(line), file=sys.stderr)
