"""Reads sets in NumPy files into arrays."""

from collections.abc import Collection
import math
import os
import pathlib
from typing import IO
import zipfile

import numpy as np

from essl_jax import config as config_lib
from essl_jax.data.arrays import ArraySource
from essl_jax.data.files import together
from essl_jax.data.limits import regular_size
from essl_jax.errors import UsageError
from essl_jax.texts import first_line

NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


class DamagedError(ValueError):
  """A file is not an `.npz` file, is damaged or too large; says why."""


def load_npz(
  path: str | pathlib.Path,
  max_bytes: int = config_lib.Data.max_bytes,
  cache_gib: float = config_lib.Data.cache_gib,
) -> ArraySource:
  """Reads a set from a NumPy .npz file.

  Args:
    path: a file, local or in a bucket, with the arrays train_images,
      train_labels, test_images and test_labels as `ArraySource` takes them.
    max_bytes: memory that the arrays may take; grayscale becomes RGB.
    cache_gib: `config.data.cache_gib`.

  Returns:
    The set.

  Raises:
    UsageError: the file is missing or broken, lacks an array, holds one of a
      wrong shape or dtype, or takes more memory.
  """
  needs = f"give an .npz file with the arrays {', '.join(NPZ_KEYS)}"
  folder, name = os.path.split(path)
  try:
    with together(folder, [name], max_bytes, cache_gib) as here:
      found, arrays = read_npz(here / name, max_bytes, NPZ_KEYS)
  except FileNotFoundError as error:
    raise UsageError(f"{path} does not exist: {needs}") from error
  except (OSError, DamagedError) as error:
    raise UsageError(
      f"{path} cannot be read ({first_line(error)}): {needs}"
    ) from error
  missing = [key for key in NPZ_KEYS if key not in found]
  if missing:
    raise UsageError(
      f"{path} lacks {', '.join(missing)} and holds "
      f"{', '.join(found) or 'nothing'}: {needs}"
    )
  train, labels, test, test_labels = (arrays[key] for key in NPZ_KEYS)
  return ArraySource(train, labels, test, test_labels)


def read_npz(
  path: str | os.PathLike[str],
  max_bytes: int,
  keys: Collection[str] | None = None,
) -> tuple[list[str], dict[str, np.ndarray]]:
  """Reads arrays after checking that the file holds all that headers promise.

  Args:
    path: of an `.npz` file.
    max_bytes: memory that the arrays may take; uint8 grayscale images count as
      three channels.
    keys: names of the arrays to read; all when absent.

  Returns:
    The names of all arrays in the file, and the arrays that were read.

  Raises:
    DamagedError: it is not such a file, is damaged, or its arrays take more
      memory.
    OSError: it cannot be opened.
  """
  try:
    regular_size(path)
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
      members = {x.filename.removesuffix(".npy"): x for x in archive.filelist}
      if len(members) < len(archive.filelist):
        raise DamagedError("it holds two arrays of one name")
      chosen = {
        key: member
        for key, member in members.items()
        if keys is None or key in keys
      }
      total = 0
      for member in chosen.values():
        with archive.open(member) as stream:
          total += _promised(stream, member.file_size)
      if total > max_bytes:
        raise DamagedError(
          f"its arrays take {total:,} bytes of memory, but"
          f" config.data.max_bytes allows {max_bytes:,}"
        )
      arrays = {}
      for key, member in chosen.items():
        with archive.open(member) as stream:
          arrays[key] = np.lib.format.read_array(stream, allow_pickle=False)
    return list(members), arrays
  except (DamagedError, MemoryError, FileNotFoundError):
    raise
  # zipfile and NumPy raise all kinds of errors for damaged archives.
  except Exception as error:
    raise DamagedError(first_line(error)) from error


def _promised(stream: IO[bytes], size: int) -> int:
  """Returns the bytes that an array takes according to its header.

  Raises:
    DamagedError: it is not an array, or the file holds less.
  """
  version = np.lib.format.read_magic(stream)
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  if version not in readers:
    raise DamagedError(f"version {version} of NumPy's format is not read")
  shape, _, dtype = readers[version](stream)
  if dtype.hasobject or not dtype.itemsize:
    raise DamagedError(f"it holds an array of {dtype}")
  if any(isinstance(x, bool) or x < 0 for x in shape):
    raise DamagedError(f"an array of the shape {shape}")
  promised = math.prod(shape) * dtype.itemsize
  if promised > size - stream.tell():
    raise DamagedError(
      f"an array of the shape {shape} needs {promised:,} bytes, but the file"
      f" holds {size:,}"
    )
  is_gray = dtype == np.uint8 and (len(shape) == 3 or shape[3:] == (1,))
  return promised * (3 if is_gray else 1)
