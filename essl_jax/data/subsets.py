"""Selects parts of a split: few labels, or a sample of the images.

Every choice depends only on the content of the set, so it is the same on all
machines and in all processes.
"""

from collections.abc import Sequence
import os
import pathlib
from typing import Any, Protocol

import numpy as np

from essl_jax.data import Source
from essl_jax.data.limits import NotReadableError, regular_size
from essl_jax.errors import UsageError
from essl_jax.storage import buckets
from essl_jax.texts import some


class Divisible(Protocol):
  """A source whose splits can be divided.

  Attributes:
    is_stored_shuffled: whether any run of stored images mixes all classes.
  """

  is_stored_shuffled: bool

  def labels(self) -> np.ndarray:
    """Returns the training labels, int32 [N], in the order of evaluation."""

  def names(self) -> list[str]:
    """Returns the training images' file names, `class/name` or `name`."""

  def take(self, rows: np.ndarray, split: str = "train") -> Any:
    """Returns a source with these images of a split only, rows ascending."""


def choose(labels: np.ndarray, fraction: float, subset: int = 0) -> np.ndarray:
  """Chooses the same fraction of every class.

  A class with n images gives `round(fraction * n)` of them, at least one, from
  an order that depends only on the class: subset s is the s-th run of that
  length, wrapping around at the end. Subsets are disjoint as long as they fit
  into the class.

  Args:
    labels: integers [N].
    fraction: in (0, 1].
    subset: which one, from 0.

  Returns:
    Rows int64 [M], ascending.
  """
  rows = []
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    # Philox is specified bit for bit, so all versions of NumPy agree.
    bits = np.random.Philox(key=int(label)).random_raw(len(members))
    order = members[np.argsort(bits, kind="stable")]
    count = max(1, round(fraction * len(order)))
    rows.append(np.take(order, subset * count + np.arange(count), mode="wrap"))
  return np.sort(np.concatenate(rows))


def few_labels(
  source: Source, fraction: float, subset: int, list_path: str | None
) -> Source:
  """Returns a source with few of the training images.

  Args:
    source: the whole set.
    fraction: see `choose`.
    subset: see `choose`.
    list_path: a file that lists the images instead, one a line, as
      `name.JPEG` or `class/name.JPEG`.

  Returns:
    A source with these training images and all test images.

  Raises:
    UsageError: the source cannot be divided, has no labels or file names, lacks
      a listed image, or has fewer subsets.
  """
  divisible = _divisible(source)
  if list_path is not None:
    return divisible.take(match(divisible.names(), read_list(list_path)))
  labels = divisible.labels()
  if labels.min() < 0:
    raise UsageError(
      "the training images have no labels to fine-tune on: set"
      " config.data.train_split to a labelled split"
    )
  there = number_of_subsets(labels, fraction)
  if subset >= there:
    raise UsageError(
      f"config.finetune.subset {subset}, but {fraction:g} of the labels gives"
      f" {there} disjoint subset(s), counted from 0: give a smaller number"
    )
  return divisible.take(choose(labels, fraction, subset))


def number_of_subsets(labels: np.ndarray, fraction: float) -> int:
  """Returns how many subsets of `choose` differ: as many as fit a class."""
  _, sizes = np.unique(labels, return_counts=True)
  counts = np.maximum(1, [round(fraction * size) for size in sizes.tolist()])
  return int((sizes // counts).max())


def sample(source: Source, number: int, split: str = "train") -> Source:
  """Returns a source with some of the images of a split, from all classes.

  For files and arrays, they are a random choice, the same each time. For a
  TFRecord set that TFDS has shuffled, they are the first ones stored, so the
  rest need not be read.

  Args:
    source: the whole set.
    number: how many images; all if there are fewer.
    split: the split to sample, "train" or "test".

  Returns:
    A source with these images of the split and all images of the other split.

  Raises:
    UsageError: the source cannot be divided.
  """
  size = source.num_examples(split)
  if number >= size:
    return source
  divisible = _divisible(source)
  if divisible.is_stored_shuffled:
    return divisible.take(np.arange(number), split)
  return divisible.take(sample_rows(size, number), split)


def sample_rows(size: int, number: int) -> np.ndarray:
  """Returns a fixed random choice of rows; larger choices contain smaller ones.

  Args:
    size: number of rows.
    number: how many to choose; all if there are fewer.

  Returns:
    Rows int64 [min(size, number)], ascending.
  """
  bits = np.random.Philox(key=0).random_raw(size)
  return np.sort(np.argsort(bits, kind="stable")[:number])


def read_list(path: str | os.PathLike[str]) -> list[str]:
  """Reads a list of file names, one a line.

  Args:
    path: of the list, local or in a bucket.

  Returns:
    Its names.

  Raises:
    UsageError: it cannot be read or is empty.
  """
  field = f"config.finetune.label_list {path}"
  advice = "give a text file with one image name per line"
  try:
    with buckets.local_copy(path, "config.finetune.label_list") as copy:
      file = pathlib.Path(copy).expanduser()
      regular_size(file)
      text = file.read_text(encoding="utf-8")
  except (OSError, NotReadableError, UnicodeDecodeError) as error:
    raise UsageError(f"{field} cannot be read ({error}): {advice}") from error
  names = [line.strip() for line in text.splitlines() if line.strip()]
  if not names:
    raise UsageError(f"{field} is empty: {advice}")
  return names


def match(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
  """Finds files by their names, with or without their folder.

  Args:
    names: of the files, `class/name` or `name`.
    wanted: names of the files to find.

  Returns:
    Rows int64 [M], ascending, each once.

  Raises:
    UsageError: a name is missing, or several files have it.
  """
  rows: dict[str, list[int]] = {}
  for row, name in enumerate(names):
    for known in {name, name.rpartition("/")[2]}:
      rows.setdefault(known, []).append(row)
  missing = [name for name in wanted if name not in rows]
  if missing:
    raise UsageError(
      f"{len(missing)} of the {len(wanted)} listed images are not among the"
      f" {len(names)} training images, such as {some(missing)}: give a list for"
      " this set, or add the missing images"
    )
  ambiguous = [name for name in wanted if len(rows[name]) > 1]
  if ambiguous:
    raise UsageError(
      f"several training images are named {some(ambiguous)}: list them as"
      " class/name"
    )
  return np.unique([rows[name][0] for name in wanted])


def _divisible(source: Any) -> Divisible:
  needs = ("is_stored_shuffled", "labels", "names", "take")
  missing = [name for name in needs if not hasattr(source, name)]
  if missing:
    raise UsageError(
      f"the source cannot be divided: it lacks {', '.join(missing)}; see"
      " `data.subsets.Divisible`"
    )
  return source
