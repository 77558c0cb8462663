"""TFDS sets prepared as ArrayRecord, whose records are read in any order."""

from typing import Any

import numpy as np

from essl_jax.data.checks import SPLITS, as_text, check_file_names
from essl_jax.data.encoded import EncodedSource
from essl_jax.data.prepared import check_tfds_split, import_tensorflow
from essl_jax.errors import UsageError


def is_array_record(builder: Any) -> bool:
  """Whether a TFDS set is stored as ArrayRecord."""
  file_format = builder.info.file_format
  return file_format is not None and file_format.value == "array_record"


class ArrayRecordSource(EncodedSource):
  """A `Source` over a TFDS set stored as ArrayRecord.

  See `EncodedSource` for the attributes, the order and what becomes of broken
  images.
  """

  def __init__(self, builder: Any, splits: dict[str, str], **form: Any):
    """Takes an open set.

    Args:
      builder: from `essl_jax.data.prepared.open_builder`.
      splits: TFDS's name of "train" and of "test".
      **form: what `EncodedSource` takes beside the images.

    Raises:
      UsageError: a split is unknown, no image can be read, or the package
        array_record is missing.
    """
    try:
      import array_record.python.array_record_data_source  # noqa: F401
    except ImportError as error:
      raise UsageError(
        f"{builder.info.full_name} is stored as ArrayRecord, which cannot be "
        f"read without the package array_record ({error}): pip install "
        "array_record, or prepare the set as TFRecord"
      ) from error
    for split in SPLITS:
      check_tfds_split(builder, splits[split])
    train, test = (_Records(builder, splits[split]) for split in SPLITS)
    super().__init__(train, test, **form)


class _Records:
  """The records of a split: see `essl_jax.data.encoded.EncodedImages`."""

  def __init__(self, builder: Any, split: str):
    _, tfds = import_tensorflow()
    self._records = builder.as_data_source(
      split=split,
      decoders={
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
      },
    )
    self._name = f"{builder.info.full_name} {split}"
    self._fields = set(builder.info.features)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    record = self._records[index]
    return record["image"], int(record["label"])

  def name(self, index: int) -> str:
    return f"{self._name}, record {index}"

  def labels(self) -> np.ndarray:
    found = (int(record["label"]) for record in self._records)
    return np.fromiter(found, np.int32, len(self))

  def file_names(self) -> list[str]:
    check_file_names(self._fields, self._name)
    return [as_text(record["file_name"]) for record in self._records]
