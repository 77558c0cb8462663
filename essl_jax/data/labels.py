"""Labels: numbers from 0 on, whatever a set calls its classes."""

from typing import Any

import numpy as np

from essl_jax.errors import UsageError
from essl_jax.texts import some

# A linear layer of so many classes takes gigabytes.
MOST_CLASSES = 1_000_000


def check_number(classes: int, where: str) -> int:
  """Returns a number of classes; UsageError where it is beyond all sets."""
  if not 1 <= classes <= MOST_CLASSES:
    raise UsageError(
      f"{where}: {classes:,} classes, and 1 to {MOST_CLASSES:,} are possible:"
      " give labels that name classes, not images"
    )
  return classes


def check_range(labels: np.ndarray, classes: int, where: str) -> np.ndarray:
  """Checks labels that a source has numbered itself.

  Args:
    labels: integers [N].
    classes: number of classes.
    where: names the labels in messages.

  Returns:
    int32 [N].

  Raises:
    UsageError: they are no integers, or below -1, which means none, or not
      below the number of classes.
  """
  labels = np.asarray(labels)
  if labels.dtype.kind not in "iu":
    raise UsageError(
      f"{where}: labels are {labels.dtype}, and must be integers"
    )
  if labels.size and (labels.min() < -1 or labels.max() >= classes):
    raise UsageError(
      f"{where}: labels are {labels.min()} to {labels.max()}, and must be"
      f" below num_classes, {classes}, or -1 for none"
    )
  return labels.astype(np.int32)


def check_array(labels: np.ndarray, name: str, length: int) -> np.ndarray:
  """Checks the labels of an array of images.

  Args:
    labels: integers [length].
    name: of the array.
    length: number of images.

  Returns:
    The labels.

  Raises:
    UsageError: they are no integers, or too few or many.
  """
  labels = np.asarray(labels)
  if labels.shape != (length,) or labels.dtype.kind not in "iu":
    raise UsageError(
      f"{name} is {labels.dtype} {list(labels.shape)}: labels must be "
      f"integers [{length}], one for each image"
    )
  return labels


def number(
  train: np.ndarray, test: np.ndarray, num_classes: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Numbers classes from 0 on, in the order of their labels.

  Labels that are 0 .. K - 1 stay what they are. The classes are those of the
  training images or, where these have no labels, of the test images.

  Args:
    train: integers [N] from 0 on, or -1 for all where there are no labels.
    test: integers [M] from 0 on.
    num_classes: K, where labels are 0 .. K - 1 already; 0 where none of the
      images has one.

  Returns:
    The numbers of both, int32 [N] and [M], and what the labels of the classes
    were, [K].

  Raises:
    UsageError: a label is negative or out of range, training images lack one of
      the test's, or there are too many.
  """
  has_labels = not np.all(train == -1)
  if num_classes == 0 and not has_labels and np.all(test == -1):
    return train.astype(np.int32), test.astype(np.int32), np.arange(0)
  for name, labels in (("train_labels", train), ("test_labels", test)):
    if labels.min() < 0 and (has_labels or labels is not train):
      raise UsageError(
        f"{name} holds {labels.min()}: labels must be integers from 0 on"
      )
  if num_classes is not None:
    check_number(num_classes, "num_classes")
    largest = max(int(train.max()), int(test.max()))
    if largest >= num_classes:
      raise UsageError(
        f"a label is {largest}, but num_classes={num_classes}: labels must be"
        " 0 .. num_classes - 1"
      )
    classes = np.arange(num_classes)
    return train.astype(np.int32), test.astype(np.int32), classes
  # NumPy makes floats of int64 and uint64 together.
  known = np.unique((train if has_labels else test).astype(np.uint64))
  asked = np.unique(test.astype(np.uint64))
  if len(foreign := np.setdiff1d(asked, known)):
    raise UsageError(
      "test_labels holds labels that train_labels lacks,"
      f" {some([str(x) for x in foreign])}: give training images of all classes"
    )
  check_number(len(known), "train_labels")

  def numbered(labels: np.ndarray) -> np.ndarray:
    return np.searchsorted(known, labels.astype(np.uint64)).astype(np.int32)

  mapped = numbered(train) if has_labels else train.astype(np.int32)
  return mapped, numbered(test), known


def class_names(source: Any) -> tuple[str, ...]:
  """What the classes of a source are called; none where it does not say."""
  classes = getattr(source, "classes", ())
  if isinstance(classes, np.ndarray):  # numbers
    return ()
  names = tuple(map(str, classes))
  return () if names == tuple(map(str, range(len(names)))) else names


def numbering(source: Any) -> dict[str, list[int]]:
  """What of a source's labels `results.json` keeps.

  Args:
    source: any; of arrays it has numbered the labels.

  Returns:
    "labels": those that became 0 .. K - 1, in order; nothing where labels
    stayed what they were.
  """
  labels = getattr(source, "classes", None)
  if not isinstance(labels, np.ndarray):
    return {}
  if np.array_equal(labels, np.arange(len(labels))):
    return {}
  return {"labels": labels.tolist()}
