"""Reads encoded records of a TFDS set as tf.data datasets in a fixed order."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from essl_jax.data.prepared import import_tensorflow, skip_decoding

_FEATURES = ("image", "label")
_FILES_AT_ONCE = 16
_READ_AT_ONCE = 1024  # records


def read(builder: Any, split: Any, file_order: Any = None) -> Any:
  """Reads records with encoded images and all other features.

  Args:
    builder: of a prepared set.
    split: TFDS's name of a split or a part of one.
    file_order: seed for the order of files; None keeps the stored order.

  Returns:
    A dataset of records by feature.
  """
  tf, tfds = import_tensorflow()
  return builder.as_dataset(
    split=split,
    shuffle_files=file_order is not None,
    decoders=skip_decoding(builder),
    read_config=tfds.ReadConfig(
      options=_deterministic(tf),
      shuffle_seed=file_order,
      shuffle_reshuffle_each_iteration=False,
      interleave_cycle_length=_FILES_AT_ONCE,
      try_autocache=False,
      skip_prefetch=True,
      # Shuffles sets that TFDS marks as ordered as well.
      enable_ordering_guard=False,
    ),
  )


def choose(records: Any, rows: np.ndarray) -> Any:
  """Selects some records; reads only up to the last of them.

  Args:
    records: a dataset.
    rows: of the wanted records, ascending.

  Returns:
    A dataset of these records.
  """
  tf, _ = import_tensorflow()
  last = int(rows[-1]) + 1
  records = records.take(last)
  if last == len(rows):
    return records
  wanted = np.zeros(last, bool)
  wanted[rows] = True
  is_wanted = tf.constant(wanted)
  return (
    records.enumerate()
    .filter(lambda row, _: is_wanted[row])
    .map(lambda _, record: record)
  )


def images_and_labels(records: Any) -> Any:
  """Drops all other features; images stay encoded."""
  return records.map(lambda record: {key: record[key] for key in _FEATURES})


def gather(records: Any, batches: Iterator[np.ndarray]) -> Any:
  """Keeps records in memory and gathers them in any order.

  Args:
    records: a dataset; its encoded images and labels are read immediately.
    batches: positions in it, int [share] each.

  Returns:
    A dataset of the images and labels at these positions, one by one. It can be
    iterated only once, like `batches`.
  """
  tf, _ = import_tensorflow()
  parts = images_and_labels(records).batch(_READ_AT_ONCE)
  chunks = list(parts.as_numpy_iterator())
  kept = {
    key: tf.constant(np.concatenate([part[key] for part in chunks]))
    for key in _FEATURES
  }
  spec = tf.TensorSpec([None], tf.int64)
  positions = tf.data.Dataset.from_generator(
    lambda: batches, output_signature=spec
  )
  taken = positions.map(
    lambda rows: {key: tf.gather(values, rows) for key, values in kept.items()}
  )
  return taken.unbatch()


def in_batches(records: Any, batch_size: int) -> Any:
  """Batches records in order, ahead of the consumer."""
  tf, _ = import_tensorflow()
  batched = records.batch(batch_size).with_options(_deterministic(tf))
  return batched.prefetch(tf.data.AUTOTUNE)


def _deterministic(tf: Any) -> Any:
  options = tf.data.Options()
  options.deterministic = True
  return options
