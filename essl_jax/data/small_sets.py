"""Sets that are read into arrays at once: digits and NumPy files."""

import pathlib
import zipfile
import zlib

import numpy as np

from essl_jax import config as config_lib
from essl_jax.data.arrays import ArraySource, take_sub_splits
from essl_jax.errors import UsageError
from essl_jax.texts import first_line

NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_TEST_FRACTION = 0.2
# What np.load raises for a damaged or foreign file; TypeError for a .npy.
_BROKEN_FILE = (OSError, EOFError, TypeError, ValueError) + (
  zipfile.BadZipFile,
  zlib.error,
)


def load_npz(path: str | pathlib.Path) -> ArraySource:
  """Reads a set from a NumPy .npz file.

  Args:
    path: a file with the arrays train_images, train_labels, test_images and
      test_labels, in the forms `ArraySource` takes.

  Returns:
    The set.

  Raises:
    UsageError: the file is missing or broken, lacks an array, or holds one
      of a wrong form.
  """
  needs = f"an .npz file with the arrays {', '.join(NPZ_KEYS)} is needed"
  try:
    with np.load(path, allow_pickle=False) as file:
      found = list(file.files)
      arrays = {key: file[key] for key in NPZ_KEYS if key in found}
  except FileNotFoundError as error:
    raise UsageError(f"{path} does not exist: {needs}") from error
  except _BROKEN_FILE as error:
    reason = first_line(error)
    if "pickle" in reason:  # what NumPy takes a foreign file for
      reason = "it is no NumPy file, or holds Python objects"
    raise UsageError(f"{path} cannot be read ({reason}): {needs}") from error
  missing = [key for key in NPZ_KEYS if key not in found]
  if missing:
    raise UsageError(
      f"{path} lacks {', '.join(missing)} and holds "
      f"{', '.join(found) or 'nothing'}: {needs}"
    )
  return ArraySource(**arrays)


def load_digits() -> ArraySource:
  """Loads the 8x8 handwritten digits that scikit-learn carries.

  1,797 real images of ten digits (UCI Optical Recognition of Handwritten
  Digits, test part), split into 1,438 for training and 359 for testing, every
  digit in the same proportion; the split never changes.

  Returns:
    The set, images scaled from 0..16 to 0..255, shape (8, 8, 3).

  Raises:
    UsageError: scikit-learn is not installed.
  """
  try:
    from sklearn import datasets
  except ImportError as error:
    raise UsageError(
      "the digits come with scikit-learn, which is not installed: "
      "pip install 'essl-jax[digits]'"
    ) from error
  digits = datasets.load_digits()
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)
  labels = digits.target
  generator = np.random.default_rng(0)
  is_test = np.zeros(len(labels), bool)
  for label in range(10):
    members = generator.permutation(np.flatnonzero(labels == label))
    is_test[members[: round(_TEST_FRACTION * len(members))]] = True
  return ArraySource(
    images[~is_test], labels[~is_test], images[is_test], labels[is_test]
  )


def open_arrays(settings: config_lib.Data, whole: ArraySource) -> ArraySource:
  """The parts of a set that a config asks for.

  Args:
    settings: `config.data`.
    whole: the set.

  Returns:
    The source.

  Raises:
    UsageError: a split does not exist, or images would have to be resized.
  """
  height, width, _ = whole.image_shape
  size = settings.image_size
  if size and (height, width) != (size, size):
    raise UsageError(
      f"data.image_size={size}, but the images of {settings.name!r} are"
      f" {height}x{width} and arrays are not resized: leave it unset"
    )
  if settings.resize_size not in (None, size):
    raise UsageError(
      f"data.resize_size={settings.resize_size}, but arrays like"
      f" {settings.name!r} are not resized: leave it unset"
    )
  return take_sub_splits(whole, settings.train_split, settings.test_split)
