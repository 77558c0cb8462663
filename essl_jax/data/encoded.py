"""Sources that read encoded images one by one, in any order.

An epoch is one exact permutation of all images, a function of (seed, epoch);
process p of n takes the p-th n-th of every global batch, and a stream begins
at any step without reading what came before.
"""

from collections.abc import Callable, Iterator, Mapping
import copy
import functools
import sys
import threading
from typing import Protocol

import numpy as np
from PIL import Image

from essl_jax.augment import View
from essl_jax.data import batches as batches_lib
from essl_jax.data.checks import (
  SPLITS,
  check_batches,
  check_crops,
  check_share,
  check_split,
)
from essl_jax.data.crops import BrokenImageError, center_crop, decode, quieten
from essl_jax.data.order import epoch_orders
from essl_jax.errors import UsageError
from essl_jax.texts import first_line

_UNREADABLE = (FileNotFoundError, IsADirectoryError, PermissionError)


class EncodedImages(Protocol):
  """The images of a split as they are stored."""

  def __len__(self) -> int:
    """Returns the number of images."""

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    """Reads an encoded image and its label."""

  def name(self, index: int) -> str:
    """Returns what to call an image in messages, such as its path."""

  def labels(self) -> np.ndarray:
    """Returns all labels, int32 [N]."""

  def file_names(self) -> list[str]:
    """Returns `class/name` or `name` of every image; may raise UsageError."""


class _Rows:
  """Some of the images of a split."""

  def __init__(self, images: EncodedImages, rows: np.ndarray):
    self._images = images
    self._rows = rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    return self._images[int(self._rows[index])]

  def name(self, index: int) -> str:
    return self._images.name(int(self._rows[index]))

  def labels(self) -> np.ndarray:
    return self._images.labels()[self._rows]

  def file_names(self) -> list[str]:
    names = self._images.file_names()
    return [names[row] for row in self._rows]


class EncodedSource:
  """A `Source` over encoded images with random access.

  An image that cannot be decoded is named on stderr once. In training the
  next readable image of the epoch's order stands in for it, so that steps
  stay what they are; evaluation leaves it out.

  Attributes:
    num_classes: number of labels.
    image_shape: (H, W, 3) of evaluation images.
    differs_in_size: whether training needs `crops`.
    broken: names of unreadable images found so far, by split.
    is_stored_shuffled: False: reading in any order costs nothing.
  """

  is_stored_shuffled = False

  def __init__(
    self,
    train: EncodedImages,
    test: EncodedImages,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    resize: int | None,
    differs_in_size: bool,
  ):
    """Takes the images and looks whether any can be read.

    Args:
      train: images of the training split.
      test: images of the test split.
      num_classes: number of labels.
      image_shape: (H, W, 3) of evaluation images.
      resize: shorter side that evaluation images are resized to before their
        centre is cut out; None where all images have `image_shape`.
      differs_in_size: whether images differ in size.

    Raises:
      UsageError: no image of a split can be read.
    """
    quieten()
    self.images = {"train": train, "test": test}
    self._unreadable: dict[str, set[int]] = {split: set() for split in SPLITS}
    self._lock = threading.Lock()
    self.broken: dict[str, list[str]] = {split: [] for split in SPLITS}
    self.num_classes = num_classes
    self.image_shape = image_shape
    self.differs_in_size = differs_in_size
    self._prepare: Callable[[Image.Image], np.ndarray] = np.asarray
    if resize is not None:
      self._prepare = functools.partial(
        center_crop, resize=resize, size=image_shape[0]
      )
    for split in SPLITS:
      self._stand_in(split, np.arange(len(self.images[split])), 0)

  def num_examples(self, split: str) -> int:
    """Returns the number of images of a split, the broken ones included."""
    check_split(split)
    return len(self.images[split])

  def batches(
    self,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    crops: Mapping[str, View] | None = None,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Streams training batches: see `essl_jax.data.Source.batches`."""
    check_crops(crops)
    size = len(self.images["train"])
    steps = check_batches(
      batch_size=batch_size,
      seed=seed,
      start_step=start_step,
      num_examples=size,
      process_index=process_index,
      process_count=process_count,
    )
    share = batch_size // process_count
    offset = process_index * share

    def job(
      step: int, order: np.ndarray, step_of_epoch: int
    ) -> batches_lib.Job:
      start = step_of_epoch * batch_size + offset
      load = lambda row: self._stand_in("train", order, start + row)
      if crops is None:
        return batches_lib.images_job(
          load, share, self.image_shape, self._prepare
        )
      first = step * batch_size + offset
      return batches_lib.crops_job(load, share, crops, seed=seed, first=first)

    orders = epoch_orders(size, steps, seed, start_step)
    return batches_lib.run(
      job(step, *place) for step, place in enumerate(orders, start_step)
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
    rows = check_share(size, process_index, process_count)
    return self._evaluation_batches(split, batch_size, rows)

  def labels(self) -> np.ndarray:
    """Returns the training labels: see `essl_jax.data.subsets.Divisible`."""
    return self.images["train"].labels()

  def names(self) -> list[str]:
    """Returns the training images' file names, `class/name` or `name`."""
    return self.images["train"].file_names()

  def take(self, rows: np.ndarray, split: str = "train") -> "EncodedSource":
    """Returns a source with these images of a split only."""
    part = copy.copy(self)
    part.images = self.images | {split: _Rows(self.images[split], rows)}
    part._unreadable = {split: set() for split in SPLITS}
    part._lock = threading.Lock()
    part.broken = {split: [] for split in SPLITS}
    return part

  def _evaluation_batches(
    self, split: str, batch_size: int, rows: range
  ) -> Iterator[dict[str, np.ndarray]]:
    """Fills the gaps of unreadable images: only the last batch is smaller."""
    masks: list[np.ndarray] = []

    def job(start: int) -> batches_lib.Job:
      count = min(batch_size, rows.stop - start)
      masks.append(np.ones(count, bool))

      def load(row: int, mask: np.ndarray = masks[-1]) -> tuple:
        found = self.read(split, start + row)
        if found is None:
          mask[row] = False
          # Dropped below; any image does.
          return Image.new("RGB", self.image_shape[1::-1]), 0
        return found

      return batches_lib.images_job(
        load, count, self.image_shape, self._prepare
      )

    rest: dict[str, np.ndarray] = {}
    jobs = (job(start) for start in rows[::batch_size])
    for batch in batches_lib.run(jobs):
      mask = masks.pop(0)
      if not mask.all():
        batch = {name: x[mask] for name, x in batch.items()}
      if rest:
        batch = {
          name: np.concatenate([rest[name], batch[name]]) for name in rest
        }
      if len(batch["label"]) < batch_size:
        rest = batch
        continue
      yield {name: x[:batch_size] for name, x in batch.items()}
      rest = {name: x[batch_size:] for name, x in batch.items()}
      rest = rest if len(rest["label"]) else {}
    if rest and len(rest["label"]):
      yield rest

  def _stand_in(
    self, split: str, order: np.ndarray, position: int
  ) -> tuple[Image.Image, int]:
    """Reads the first readable image of an order from a position on."""
    for place in range(position, position + len(order)):
      found = self.read(split, int(order[place % len(order)]))
      if found is not None:
        return found
    raise UsageError(
      f"none of the {len(order)} {split} images can be read, the first being "
      f"{self.images[split].name(0)}: give a folder or set of intact images"
    )

  def read(self, split: str, index: int) -> tuple[Image.Image, int] | None:
    """Decodes an image and gives its label, or reports it once."""
    if index in self._unreadable[split]:
      return None
    try:
      encoded, label = self.images[split][index]
      return decode(encoded), label
    # Other failures of a disk or network may pass: they end the run, which
    # then resumes exactly, rather than change what is trained on.
    except (BrokenImageError, *_UNREADABLE) as error:
      self._report(split, index, first_line(error))
      return None

  def _report(self, split: str, index: int, reason: str) -> None:
    with self._lock:
      if index in self._unreadable[split]:
        return
      self._unreadable[split].add(index)
      name = self.images[split].name(index)
      self.broken[split].append(name)
      print(f"essl_jax: {name} is broken, left out: {reason}", file=sys.stderr)
