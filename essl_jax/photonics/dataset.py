"""Reads data sets of unit cells: our own HDF5 files and the original's."""

import os
import pathlib
from typing import Any, NamedTuple

import h5py
import numpy as np

from essl_jax.errors import UsageError
from essl_jax.photonics.cells import SPLITS
from essl_jax.photonics.density import NUM_TARGETS

_ORIGINAL_CELLS = "unitcell/mpbepsimage"
_ORIGINAL_DENSITIES = "mpbcal/DOS"
_LEAST, _MOST = 1.0, 20.0


class Cells(NamedTuple):
  """Unit cells of one split.

  Attributes:
    permittivity: float32 [N, P, P], indexed by x, y; 1 to 20.
    density_of_states: float32 [N, M], at the first M of
      `density.frequencies()`, M 500 or at least 400; None without labels.
  """

  permittivity: np.ndarray
  density_of_states: np.ndarray | None


def load(source: str | os.PathLike[str], split: str | None = None) -> Cells:
  """Reads the unit cells of a split.

  Args:
    source: a directory that `generate` wrote, or an HDF5 file: one of those, or
      one of the original's layout, `unitcell/mpbepsimage/<i>` and
      `mpbcal/DOS/<i>`.
    split: "unlabelled", "train", "validation" or "test" of a directory; a file
      is one split, read whole.

  Returns:
    The cells, in the order of their numbers.

  Raises:
    UsageError: the source is missing, incomplete, damaged, or no such data.
  """
  path = pathlib.Path(source).expanduser()
  if path.is_dir():
    path = _file_of(path, split)
  if not path.is_file():
    raise UsageError(f"{path} does not exist")
  if not h5py.is_hdf5(path):
    raise UsageError(f"{path} is no HDF5 file")
  try:
    with h5py.File(path, "r") as file:
      cells = _read(path, file)
  except UsageError:
    raise
  except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
    raise UsageError(
      f"{path} is damaged or truncated ({_first_line(error)}): make or copy it"
      " again"
    ) from error
  _check(path, cells)
  return cells


def _file_of(directory: pathlib.Path, split: str | None) -> pathlib.Path:
  if split not in SPLITS:
    raise UsageError(f"split {split!r} is none of {', '.join(SPLITS)}")
  path = directory / f"{split}.h5"
  if not path.is_file():
    found = [name for name in SPLITS if (directory / f"{name}.h5").is_file()]
    raise UsageError(
      f"{directory} holds no {split}.h5 (it holds"
      f" {', '.join(found) or 'no split'}): run or resume python -m"
      " essl_jax.photonics.generate"
    )
  return path


def _read(path: pathlib.Path, file: h5py.File) -> Cells:
  if "permittivity" in file:
    labels = file.get("density_of_states")
    return Cells(
      np.asarray(file["permittivity"][()], np.float32),
      None if labels is None else np.asarray(labels[()], np.float32),
    )
  images = file.get(_ORIGINAL_CELLS)
  if not isinstance(images, h5py.Group) or not len(images):
    found = ", ".join(sorted(file)) or "nothing"
    raise UsageError(
      f"{path} holds {found}: needs permittivity, or {_ORIGINAL_CELLS}/<number>"
    )
  numbers = sorted(images, key=_number)
  labels = file.get(_ORIGINAL_DENSITIES)
  if labels is not None:
    missing = [number for number in numbers if number not in labels]
    if missing:
      raise UsageError(
        f"{path} lacks {_ORIGINAL_DENSITIES}/{missing[0]} and so"
        f" {len(missing)} of {len(numbers)} densities"
      )
  return Cells(
    _stack(images, numbers),
    None if labels is None else _stack(labels, numbers),
  )


def _number(name: str) -> int:
  """The number of a cell, by which names are ordered."""
  if not name.isdecimal():
    raise UsageError(f"{_ORIGINAL_CELLS}/{name}: cells are named by numbers")
  return int(name)


def _stack(group: Any, names: list[str]) -> np.ndarray:
  return np.stack([np.squeeze(group[n][()]) for n in names]).astype(np.float32)


def _check(path: pathlib.Path, cells: Cells) -> None:
  images, labels = cells
  if images.ndim != 3 or images.shape[1] != images.shape[2] or not images.size:
    raise UsageError(
      f"{path}: permittivity is {list(images.shape)}, not [N, P, P]"
    )
  if not np.isfinite(images).all():
    raise UsageError(f"{path}: permittivity is not finite everywhere")
  if images.min() < _LEAST - 1e-4 or images.max() > _MOST + 1e-4:
    raise UsageError(
      f"{path}: permittivity reaches from {images.min():g} to"
      f" {images.max():g}; {_LEAST:g} to {_MOST:g} is allowed"
    )
  if labels is None:
    return
  if (
    labels.ndim != 2
    or len(labels) != len(images)
    or labels.shape[1] < NUM_TARGETS
  ):
    raise UsageError(
      f"{path}: density_of_states is {list(labels.shape)}, not"
      f" [{len(images)}, {NUM_TARGETS} or more]"
    )
  if not np.isfinite(labels).all():
    raise UsageError(f"{path}: density_of_states is not finite everywhere")


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]
