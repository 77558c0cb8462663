"""Reads TFDS sets stored as ArrayRecord, which allows random access."""

from typing import Any

import numpy as np

from essl_jax.data.checks import SPLITS, check_file_names
from essl_jax.data.encoded import EncodedSource
from essl_jax.data.labels import check_range
from essl_jax.data.prepared import (
  check_tfds_split,
  import_tensorflow,
  skip_decoding,
)
from essl_jax.errors import UsageError


def is_array_record(builder: Any) -> bool:
  """Whether a TFDS set is stored as ArrayRecord."""
  file_format = builder.info.file_format
  return file_format is not None and file_format.value == "array_record"


class ArrayRecordSource(EncodedSource):
  """A `Source` over a TFDS set stored as ArrayRecord.

  See `EncodedSource` for the attributes, the order and the handling of broken
  images.
  """

  def __init__(self, builder: Any, splits: dict[str, str], **form: Any):
    """Wraps an open set.

    Args:
      builder: from `essl_jax.data.prepared.open_builder`.
      splits: TFDS's names of "train" and "test".
      **form: the other arguments of `EncodedSource`.

    Raises:
      UsageError: a split is unknown, no image can be read, or the package
        array_record is missing.
    """
    try:
      import array_record.python.array_record_data_source  # noqa: F401
    except ImportError as error:
      raise UsageError(
        f"{builder.info.full_name} is stored as ArrayRecord, which needs the "
        f"package array_record ({error}): pip install array_record, or prepare "
        "the set as TFRecord"
      ) from error
    classes = form["num_classes"]
    images = {
      split: _Records(builder, splits[split], classes) for split in SPLITS
    }
    rows = {split: np.arange(len(x.records)) for split, x in images.items()}
    super().__init__(images, rows, **form)


class _Records:
  """The records of a split: see `essl_jax.data.encoded.EncodedImages`."""

  def __init__(self, builder: Any, split: str, num_classes: int):
    check_tfds_split(builder, split)
    self.records = builder.as_data_source(
      split=split, decoders=skip_decoding(builder)
    )
    self._name = f"{builder.info.full_name} {split}"
    self._num_classes = num_classes
    self._fields = set(builder.info.features)

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    record = self.records[index]
    return record["image"], int(self._checked([record["label"]])[0])

  def size(self, index: int) -> int:
    return 0  # records are too small to count

  def name(self, index: int) -> str:
    return f"{self._name}, record {index}"

  def labels(self) -> np.ndarray:
    return self._checked([record["label"] for record in self.records])

  def _checked(self, labels: list[int]) -> np.ndarray:
    return check_range(np.asarray(labels), self._num_classes, self._name)

  def file_names(self) -> list[str]:
    check_file_names(self._fields, self._name)
    tf, _ = import_tensorflow()
    return [tf.compat.as_text(x["file_name"]) for x in self.records]
