"""Sets in NumPy files, read into arrays at once."""

import pathlib
import zipfile
import zlib

import numpy as np

from essl_jax.data.arrays import ArraySource
from essl_jax.errors import UsageError
from essl_jax.texts import first_line

NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
# What np.load raises for a damaged or foreign file; TypeError for a .npy.
BROKEN_FILE = (OSError, EOFError, KeyError, TypeError, ValueError) + (
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
  except BROKEN_FILE as error:
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
