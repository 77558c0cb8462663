"""Checks labels and numbers classes from 0, whatever a set calls them."""

from typing import Any

import numpy as np

from essl_jax.errors import UsageError
from essl_jax.texts import some

# A linear layer with this many classes takes gigabytes.
MOST_CLASSES = 1_000_000


def check_number(classes: int, where: str) -> int:
  """Returns a number of classes; raises UsageError if it is implausible."""
  if not 1 <= classes <= MOST_CLASSES:
    raise UsageError(
      f"{where}: {classes:,} classes, but only 1 to {MOST_CLASSES:,} are"
      " possible: give labels that name classes, not images"
    )
  return classes


def check_range(labels: np.ndarray, classes: int, where: str) -> np.ndarray:
  """Checks labels that a source numbered itself.

  Args:
    labels: integers [N].
    classes: number of classes.
    where: names the labels in messages.

  Returns:
    int32 [N].

  Raises:
    UsageError: they are not integers, are below -1 (which means no label), or
      are not below the number of classes.
  """
  labels = np.asarray(labels)
  if labels.dtype.kind not in "iu":
    raise UsageError(f"{where}: labels are {labels.dtype} but must be integers")
  if labels.size and (labels.min() < -1 or labels.max() >= classes):
    raise UsageError(
      f"{where}: labels are {labels.min()} to {labels.max()} but must be"
      f" below num_classes={classes}, or -1 for no label"
    )
  return labels.astype(np.int32)


def check_array(labels: np.ndarray, name: str, length: int) -> np.ndarray:
  """Checks the type and the number of labels of an array of images.

  Args:
    labels: integers [length].
    name: of the array.
    length: number of images.

  Returns:
    The labels.

  Raises:
    UsageError: they are not integers, or too few or too many.
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
  """Numbers classes from 0, in the order of their labels.

  Labels that are already 0 .. K - 1 stay the same. The classes are those of the
  training images or, if these have no labels, of the test images.

  Args:
    train: integers [N] >= 0, or all -1 if the images have no labels.
    test: integers [M] >= 0.
    num_classes: K, if labels are 0 .. K - 1 already; 0 if no image has a label.

  Returns:
    The new labels of both, int32 [N] and [M], and the original label of each
    class, [K].

  Raises:
    UsageError: a label is negative or out of range, a test label is missing
      among the training labels, or there are too many classes.
  """
  has_labels = not np.all(train == -1)
  if num_classes == 0 and not has_labels and np.all(test == -1):
    return train.astype(np.int32), test.astype(np.int32), np.arange(0)
  for name, labels in (("train_labels", train), ("test_labels", test)):
    if labels.min() < 0 and (has_labels or labels is not train):
      raise UsageError(
        f"{name} holds {labels.min()}: labels must be integers >= 0"
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
  # NumPy would convert int64 and uint64 together to floats.
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
  """Returns the names of a source's classes; empty if it has none."""
  classes = getattr(source, "classes", ())
  if isinstance(classes, np.ndarray):  # numbers
    return ()
  names = tuple(map(str, classes))
  return () if names == tuple(map(str, range(len(names)))) else names


def numbering(source: Any) -> dict[str, list[int]]:
  """Returns the original labels of a source, for `results.json`.

  Args:
    source: any source; one of arrays may have renumbered the labels.

  Returns:
    "labels": the labels that became 0 .. K - 1, in order. Empty if labels were
    not renumbered.
  """
  labels = getattr(source, "classes", None)
  if not isinstance(labels, np.ndarray):
    return {}
  if np.array_equal(labels, np.arange(len(labels))):
    return {}
  return {"labels": labels.tolist()}
