"""Reads images and labels: one interface, three kinds of source.

The train loop and the evaluators read from a `Source`.
`essl_jax.data.arrays` serves sets that fit into memory, and
`essl_jax.data.folder` serves image files; neither needs TensorFlow.
`essl_jax.data.streaming` reads any image classification set of TensorFlow
Datasets and is imported only if the config names one.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import pathlib
import sys
from typing import Any, Protocol

import numpy as np

from essl_jax import config as config_lib
from essl_jax.augment import View
from essl_jax.config.schema import find_source
from essl_jax.data.arrays import ArraySource, open_arrays
from essl_jax.data.checked import CheckedSource
from essl_jax.data.checks import SPLITS, check_sizes
from essl_jax.data.digits import load_digits
from essl_jax.data.folder import open_folder
from essl_jax.data.labels import class_names, numbering
from essl_jax.data.npz import load_npz
from essl_jax.errors import UsageError, told
from essl_jax.storage.places import is_remote
from essl_jax.texts import some

__all__ = [
  "ArraySource",
  "Source",
  "load_digits",
  "load_npz",
  "open_labelled",
  "open_source",
]

_READ_BATCH = 256
# Fields that a labelled folder uses instead of these, for messages.
_LABELLED = {
  "dir": "labelled_dir",
  "train_split": "labelled_split",
  "test_split": "labelled_test_split",
}


class Source(Protocol):
  """A labelled image set with a training and a test split.

  A source of images without classes may also have `shades(split)`. It returns a
  number for each image of a split, float [N] in the order of
  `evaluation_batches`, and what the numbers mean. The report colours its map of
  the features by them.

  Attributes:
    num_classes: number of labels; labels are 0 .. num_classes - 1.
    image_shape: (height, width, 3) of evaluation images, and of training
      images that are not cropped on the host.
    differs_in_size: whether stored images differ in size. If so, training
      should ask for `crops`, since whole images show only the centre.
    broken: by split, the names of the images that could not be read so far;
      each was reported on stderr, and evaluation leaves it out.
  """

  num_classes: int
  image_shape: tuple[int, int, int]
  differs_in_size: bool

  @property
  def broken(self) -> Mapping[str, Sequence[str]]:
    """See the attributes above."""

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
    crops: Mapping[str, View] | None = None,
    windows: bool = False,
    shared_by: Mapping[str, int] | None = None,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Streams shuffled batches of the training split without end.

    Step s belongs to epoch s // steps_per_epoch, where steps_per_epoch =
    num_examples // batch_size; the rest of an epoch is dropped. The order of an
    epoch depends only on `seed` and the epoch's number, so the stream from
    `start_step` is the stream from 0 without its first `start_step` batches.

    Args:
      batch_size: global batch size, a multiple of `process_count`.
      seed: a number >= 0.
      start_step: the step of the first batch.
      process_index: the process whose share to yield.
      process_count: number of disjoint shares of every global batch.
      crops: by name, the random crops to cut from every full image, which is
        decoded once. The windows are those of torchvision's RandomResizedCrop
        with the view's size, scale, ratio and interpolation, resized as PIL
        does. They depend only on (seed, name, step * batch_size + row in the
        global batch) and on the image's size. Arrays do not take crops.
      windows: whether a batch includes the windows of its crops. Passed only if
        some part needs to know how views were drawn.
      shared_by: by crop, how many consecutive images of a batch share the draw
        of the first of them; must divide the batch. Passed only if some part
        shares draws.

    Returns:
      {"image": uint8 [batch_size / process_count, H, W, 3],
       "label": int32 [batch_size / process_count]} for every step. With
      `crops`, uint8 [batch_size / process_count, size, size, 3] under each
      crop's name instead of "image". With `windows`, also int32
      [batch_size / process_count, 6] under each crop's `augment.window_name`:
      top, left, height and width in pixels of the image, and the image's height
      and width.

    Raises:
      UsageError: the batch is larger than the training split or not divisible
        by the number of processes, or no image can be read.
      ValueError: the source has no `crops`, or one is named "label".
    """

  def evaluation_batches(
    self,
    split: str,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example of `split` once, always in the same order.

    With several processes, each gets a contiguous share. Shares differ by one
    example at most, counting broken ones.

    Args:
      split: "train" or "test".
      batch_size: examples in a batch; the last batch may be smaller.
      process_index: the process whose share to yield.
      process_count: number of shares.

    Returns:
      {"image": uint8 [n, H, W, 3], "label": int32 [n]}, n <= batch_size.

    Raises:
      UsageError: there is no such split or process.
    """


def open_source(
  settings: config_lib.Data, own: Mapping[str, Any] | None = None
) -> Source:
  """Opens the image set of a config.

  Args:
    settings: `config.data`. Its `name` is a known source, `module:function`,
      a path ending in ".npz" (see `load_npz`), or a TFDS image classification
      set such as "cifar10".
    own: the source's own fields, by name. A field named `generate` says what
      to generate if data are missing; its default must generate nothing, since
      the report does not set it.

  Returns:
    The source, held in memory if `settings.on_device` is set.

  Raises:
    UsageError: the set is unknown, missing, broken or of the wrong form.
  """
  name = settings.name
  check_sizes(settings.image_size, settings.resize_size)
  function = find_source(name)
  if function is not None:
    with told(f"config.data.name={name}"):
      source = function(settings, **(own or {}))
    if not _is_ours(source):
      source = CheckedSource(f"config.data.name={name}", source)
  elif name.endswith(".npz"):
    arrays = load_npz(name, settings.max_bytes, settings.cache_gib)
    source = open_arrays(settings, arrays)
    for changed in numbering(source).values():
      labels = f"the labels {some(list(map(str, changed)))} of {name}"
      last = len(changed) - 1
      print(f"essl_jax: {labels} are numbered 0 to {last}", file=sys.stderr)
  elif is_remote(name) or ("/" in name and pathlib.Path(name).is_dir()):
    raise UsageError(
      f"data.name={name!r} is a directory: give"
      f" --config.data.name=folder --config.data.dir={name} to read its images,"
      " or the name of a TFDS set"
    )
  else:
    # Imported here: not every installation has TensorFlow.
    from essl_jax.data.tfds_sets import open_tfds

    source = open_tfds(settings)
  is_held = isinstance(source, ArraySource)
  return _hold(source) if settings.on_device and not is_held else source


def open_labelled(config: config_lib.Config, source: Source) -> Source:
  """Opens the labelled images that evaluations train and test on.

  Args:
    config: of the run.
    source: of the run's images.

  Returns:
    `source` itself, unless `data.labelled_dir` or `data.labelled_split` is set.

  Raises:
    UsageError: as for `open_source`.
  """
  settings = config.data
  if settings.labelled_dir is None:
    if settings.labelled_split is None:
      return source
    settings = dataclasses.replace(settings, train_split=settings.labelled)
    return open_source(settings, config_lib.source_fields(config))
  settings = dataclasses.replace(
    settings,
    dir=settings.labelled_dir,
    train_split=settings.labelled,
    test_split=settings.labelled_test,
  )
  check_sizes(settings.image_size, settings.resize_size)
  try:
    found = open_folder(settings)
  except UsageError as error:
    text = str(error)
    for name, own in _LABELLED.items():
      text = text.replace(f"data.{name}", f"data.{own}")
    raise UsageError(text) from error
  return _hold(found) if settings.on_device else found


def _is_ours(source: Any) -> bool:
  """Whether a source's class, or a base of it, is in this package."""
  classes = [x for x in type(source).__mro__ if x is not Source]
  return any(x.__module__.startswith("essl_jax.") for x in classes)


def _hold(source: Source) -> ArraySource:
  """Reads the evaluation images of a set into memory.

  `broken` still lists the broken images, but `num_examples` no longer counts
  them. Raises UsageError if only some labels are missing (TFDS writes -1).
  """

  def read(split: str) -> tuple[np.ndarray, np.ndarray]:
    size, number = source.num_examples(split), 0
    images = np.empty((size, *source.image_shape), np.uint8)
    labels = np.empty(size, np.int32)
    for batch in source.evaluation_batches(split, _READ_BATCH):
      part = slice(number, number + len(batch["label"]))
      images[part], labels[part] = batch["image"], batch["label"]
      number = part.stop
    return images[:number], labels[:number]

  held = ArraySource(
    *read("train"), *read("test"), num_classes=source.num_classes
  )
  if names := class_names(source):
    held.classes = names
  held.broken = {split: tuple(source.broken[split]) for split in SPLITS}
  return held
