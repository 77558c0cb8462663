"""Opens a TFDS image classification set with the source for its format."""

from typing import Any

import numpy as np

from essl_jax import config as config_lib
from essl_jax.data.array_record import ArrayRecordSource, is_array_record
from essl_jax.data.labels import check_number
from essl_jax.data.prepared import import_tensorflow, open_builder
from essl_jax.data.streaming import TFDSSource
from essl_jax.errors import UsageError


def open_tfds(settings: config_lib.Data) -> TFDSSource | ArrayRecordSource:
  """Opens a set of TFDS, downloading and preparing it if need be.

  With several processes on one file system, prepare the set before.

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
  kind = ArrayRecordSource if is_array_record(builder) else TFDSSource
  return kind(
    builder,
    {"train": settings.train_split, "test": settings.test_split},
    num_classes=num_classes,
    image_shape=(height, width, 3),
    resize=None if shape == (height, width) and resize == size else resize,
    differs_in_size=None in shape,
    max_pixels=settings.max_pixels,
  )


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
  return check_number(label.num_classes, f"the labels of {name}")
