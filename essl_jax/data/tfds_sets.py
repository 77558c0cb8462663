"""Opens a TFDS image classification set with the source for its format."""

from collections.abc import Collection
import contextlib
import sys
from typing import Any
import weakref

import numpy as np

from essl_jax import config as config_lib
from essl_jax.data.array_record import ArrayRecordSource, is_array_record
from essl_jax.data.labels import check_number
from essl_jax.data.prepared import (
  check_tfds_split,
  import_tensorflow,
  open_builder,
)
from essl_jax.data.streaming import TFDSSource
from essl_jax.errors import UsageError
from essl_jax.storage import buckets, objects, places
from essl_jax.storage.cache import Cache
from essl_jax.texts import some


def open_tfds(settings: config_lib.Data) -> TFDSSource | ArrayRecordSource:
  """Opens a TFDS set; downloads and prepares it if necessary.

  With several processes on one file system, prepare the set beforehand.

  Args:
    settings: `config.data`, with a TFDS name, such as "cifar10".

  Returns:
    A source for the format that the set is stored in.

  Raises:
    UsageError: the set is missing, has no images and labels, its images
      differ in size and `image_size` is None, or a split is unknown.
  """
  name, size = settings.name, settings.image_size
  builder = open_builder(name, settings.dir)
  num_classes = _check_features(builder.info.features, name)
  shape = tuple(builder.info.features["image"].shape[:2])
  if size is None and None in shape:
    raise UsageError(
      f"the images of {name!r} differ in size: set --config.data.image_size "
      "to the side of evaluation images, such as 224"
    )
  height, width = shape if size is None else (size, size)
  resize = settings.resize_size or size
  splits = {"train": settings.train_split, "test": settings.test_split}
  if places.is_remote(settings.dir or ""):
    builder = copied(builder, splits.values(), settings.cache_gib)
  kind = ArrayRecordSource if is_array_record(builder) else TFDSSource
  source = kind(
    builder,
    splits,
    num_classes=num_classes,
    image_shape=(height, width, 3),
    resize=None if shape == (height, width) and resize == size else resize,
    differs_in_size=None in shape,
    max_pixels=settings.max_pixels,
  )
  source.classes = tuple(builder.info.features["label"].names)
  return source


def copied(builder: Any, splits: Collection[str], cache_gib: float) -> Any:
  """Returns a builder of the same set that reads local copies of the files.

  If TFRecord files do not fit into the cache, TensorFlow itself reads them from
  the bucket, provided that is at gs://.

  Raises:
    UsageError: a split is unknown, a file is missing, or files that must be
      read locally do not fit into the cache.
  """
  name, directory = builder.info.full_name, str(builder.data_dir)
  for split in splits:
    check_tfds_split(builder, split)
  known = builder.info.splits
  needed = {x for split in splits for x in known[split].filenames}
  records = {x for split in known.values() for x in split.filenames}
  with buckets.refused(directory):
    _, found = objects.in_folder(directory)
  if missing := needed - {x.name for x in found}:
    raise UsageError(
      f"{directory} lacks {some(sorted(missing))}: copy the whole set there"
    )
  wanted = [x for x in found if x.name in needed or x.name not in records]
  cache = Cache(cache_gib)
  if not cache.fits(wanted):
    gib = sum(x.size for x in wanted) / 2**30
    large = (
      f"{name} has {gib:.3g} GiB in the bucket, but cache_gib={cache_gib:g}"
    )
    if is_array_record(builder):
      raise UsageError(
        f"{large}: ArrayRecord needs local copies, so set"
        " --config.data.cache_gib to more than that, or prepare TFRecord"
      )
    if not directory.startswith("gs://"):
      raise UsageError(
        f"{large}: TensorFlow can read only gs:// by itself, so set"
        " --config.data.cache_gib to more than that"
      )
    print(f"essl_jax: {large}: reading from the bucket", file=sys.stderr)
    return builder
  _, tfds = import_tensorflow()
  with contextlib.ExitStack() as stack, buckets.refused(directory):
    copies = tfds.builder_from_directory(
      stack.enter_context(cache.hold(found, wanted))
    )
    weakref.finalize(copies, stack.pop_all().close)
  return copies


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
      f"{name!r} is not an image classification set (it has "
      f"{', '.join(found) or 'other data'}): choose one with an 8-bit 'image' "
      "and a 'label' with a known number of classes"
    )
  return check_number(label.num_classes, f"the labels of {name}")
