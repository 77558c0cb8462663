"""Reads data sets of unit cells: our own HDF5 files and the original ones."""

import math
import os
import pathlib
from typing import Any, NamedTuple

import h5py
import numpy as np

from essl_jax import config as config_lib
from essl_jax.data.limits import NotReadableError, regular_size
from essl_jax.errors import UsageError
from essl_jax.photonics.cells import (
  HIGHEST_PERMITTIVITY,
  LOWEST_PERMITTIVITY,
  SPLITS,
)
from essl_jax.photonics.density import NUM_TARGETS
from essl_jax.texts import first_line

_ORIGINAL_CELLS = "unitcell/mpbepsimage"
_ORIGINAL_MEANS = "unitcell/epsavg"
_ORIGINAL_DENSITIES = "mpbcal/DOS"
_MEAN_TOLERANCE = 1e-2  # relative; MPB averages over different points


class Cells(NamedTuple):
  """Unit cells of one split.

  Attributes:
    permittivity: float32 [N, P, P], indexed by x, y; 1 to 20.
    density_of_states: float32 [N, M], at the first M of
      `density.frequencies()`, with M = 500, or at least 400; None without
      labels.
  """

  permittivity: np.ndarray
  density_of_states: np.ndarray | None


def load(
  source: str | os.PathLike[str],
  split: str | None = None,
  max_bytes: int = config_lib.Data.max_bytes,
) -> Cells:
  """Reads the unit cells of a split.

  Args:
    source: a directory that `generate` wrote, one of its HDF5 files, or an HDF5
      file in the original layout: `unitcell/mpbepsimage/<i>`, `mpbcal/DOS/<i>`
      and optionally `unitcell/epsavg/<i>`, which is compared with the cell's
      mean.
    split: "unlabelled", "train", "validation" or "test" of a directory. A file
      is a single split, read whole.
    max_bytes: how much memory the file's arrays may take.

  Returns:
    The cells, in the order of their numbers.

  Raises:
    UsageError: the source is missing, incomplete or damaged, takes too much
      memory, refers to other files, or is in another format.
  """
  path = pathlib.Path(source).expanduser()
  if path.is_dir():
    path = _file_of(path, split)
  try:
    regular_size(path)
  except FileNotFoundError as error:
    raise UsageError(f"{path} does not exist") from error
  except (OSError, NotReadableError) as error:
    raise UsageError(f"{path} cannot be read: {first_line(error)}") from error
  if not h5py.is_hdf5(path):
    raise UsageError(f"{path} is not an HDF5 file")
  try:
    with h5py.File(path, "r") as file:
      cells, names = _read(_Arrays(file, max_bytes))
    _check(cells, names)
  except UsageError as error:
    raise UsageError(f"{path}: {error}") from error
  except MemoryError:
    raise
  # HDF5 raises errors of many types for damaged files.
  except Exception as error:
    raise UsageError(
      f"{path} is damaged or truncated ({first_line(error)}): make or copy it"
      " again"
    ) from error
  return cells


def _file_of(directory: pathlib.Path, split: str | None) -> pathlib.Path:
  if split is None:
    raise UsageError(
      f"{directory} is a directory: give split=, one of {', '.join(SPLITS)}"
    )
  if split not in SPLITS:
    raise UsageError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
  path = directory / f"{split}.h5"
  if not path.is_file():
    found = [name for name in SPLITS if (directory / f"{name}.h5").is_file()]
    raise UsageError(
      f"{directory} holds no {split}.h5 (it holds"
      f" {', '.join(found) or 'no split'}): run or resume python -m"
      " essl_jax.photonics.generate"
    )
  return path


class _Arrays:
  """An HDF5 file with a memory limit for all its arrays together."""

  def __init__(self, file: h5py.File, max_bytes: int):
    self._file, self._max_bytes, self._taken = file, max_bytes, 0

  def __contains__(self, name: str) -> bool:
    return self._get(name) is not None

  def names(self, group: str | None = None) -> list[str]:
    """Returns the names in a group, or in the file."""
    return list(self._file if group is None else self._get(group))

  def is_group(self, name: str) -> bool:
    """Tells whether there is a group of this name."""
    return isinstance(self._get(name), h5py.Group)

  def numbers(self, group: str) -> list[str]:
    """Returns the names in a group, which are numbers, in numeric order."""
    if not self.is_group(group):
      raise UsageError(f"{group} is an array, not a group of {group}/<i>")
    names = self.names(group)
    for name in names:
      if not name.isdecimal():
        raise UsageError(f"{group}/{name}: names of cells must be numbers")
    return sorted(names, key=int)

  def array(self, name: str) -> np.ndarray:
    """Reads one array as float32, after a check of its size."""
    found = self._get(name)
    if not isinstance(found, h5py.Dataset):
      raise UsageError(f"{name} is a group, not an array")
    if found.dtype.kind not in "fiu":
      raise UsageError(f"{name} is {found.dtype}, not real numbers")
    if found.is_virtual or found.external:
      raise UsageError(f"{name} is stored in other files: copy it to this one")
    width = max(found.dtype.itemsize, 4)
    chunk = math.prod(found.chunks or ()) * width
    self._taken += max(found.size * width, chunk)
    if self._taken > self._max_bytes:
      raise UsageError(
        f"its arrays take {self._taken:,} bytes of memory or more, but"
        f" config.data.max_bytes allows {self._max_bytes:,}"
      )
    return np.asarray(found[()], np.float32)

  def stack(self, group: str, names: list[str]) -> np.ndarray:
    """Reads and stacks arrays of equal shape."""
    arrays: list[np.ndarray] = []
    for name in names:
      arrays.append(np.squeeze(self.array(f"{group}/{name}")))
      if arrays[-1].shape != arrays[0].shape:
        raise UsageError(
          f"{group}/{name} is {list(arrays[-1].shape)}, but"
          f" {group}/{names[0]} is {list(arrays[0].shape)}"
        )
    return np.stack(arrays)

  def _get(self, name: str) -> Any:
    """Returns the object of a name, or None.

    Does not follow links, which may lead to other files or pipes.
    """
    found: Any = self._file
    for part in name.split("/"):
      if not isinstance(found, h5py.Group):
        return None
      links, key = found.id.links, part.encode()
      if not links.exists(key):
        return None
      if links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise UsageError(f"{name} is a link: copy its target into the file")
      found = found[part]
    return found


def _read(file: _Arrays) -> tuple[Cells, list[str]]:
  """Reads the cells, and their names for messages."""
  if "permittivity" in file:
    images, labels = file.array("permittivity"), None
    if "density_of_states" in file:
      labels = file.array("density_of_states")
    return Cells(images, labels), [str(i) for i in range(len(images))]
  if not file.is_group(_ORIGINAL_CELLS):
    found = ", ".join(sorted(file.names())) or "nothing"
    raise UsageError(
      f"it needs permittivity or {_ORIGINAL_CELLS}/<number>, but holds {found}"
    )
  names = file.numbers(_ORIGINAL_CELLS)
  if not names:
    raise UsageError(f"it holds no cells in {_ORIGINAL_CELLS}")
  cells = Cells(file.stack(_ORIGINAL_CELLS, names), None)
  if _ORIGINAL_MEANS in file:
    _check_means(file, cells.permittivity, names)
  if _ORIGINAL_DENSITIES in file:
    _check_numbers(names, file.numbers(_ORIGINAL_DENSITIES))
    densities = file.stack(_ORIGINAL_DENSITIES, names)
    cells = cells._replace(density_of_states=densities)
  return cells, names


def _check_numbers(cells: list[str], densities: list[str]) -> None:
  missing = sorted(set(cells) - set(densities), key=int)
  if missing:
    raise UsageError(
      f"it lacks {len(missing)} of {len(cells)} densities, the first of them"
      f" {_ORIGINAL_DENSITIES}/{missing[0]}"
    )
  surplus = sorted(set(densities) - set(cells), key=int)
  if surplus:
    raise UsageError(
      f"it holds {len(surplus)} densities without a cell, the first of them"
      f" {_ORIGINAL_DENSITIES}/{surplus[0]}"
    )


def _check_means(file: _Arrays, images: np.ndarray, names: list[str]) -> None:
  known = set(file.numbers(_ORIGINAL_MEANS))
  for name, image in zip(names, images, strict=True):
    if name not in known:
      continue
    mean = float(file.array(f"{_ORIGINAL_MEANS}/{name}").mean())
    actual = float(image.mean())
    if not abs(mean - actual) <= _MEAN_TOLERANCE * actual:
      raise UsageError(
        f"{_ORIGINAL_MEANS}/{name} is {mean:g}, but the mean of"
        f" {_ORIGINAL_CELLS}/{name} is {actual:g}"
      )


def _check(cells: Cells, names: list[str]) -> None:
  images, labels = cells
  if images.ndim != 3 or images.shape[1] != images.shape[2] or not images.size:
    raise UsageError(f"permittivity is {list(images.shape)}, not [N, P, P]")
  _check_values(
    "permittivity", names, images, LOWEST_PERMITTIVITY, HIGHEST_PERMITTIVITY
  )
  if labels is None:
    return
  if (
    labels.ndim != 2
    or len(labels) != len(images)
    or labels.shape[1] < NUM_TARGETS
  ):
    raise UsageError(
      f"density_of_states is {list(labels.shape)}, not"
      f" [{len(images)}, {NUM_TARGETS} or more]"
    )
  _check_values("density_of_states", names, labels, 0, np.inf)


def _check_values(
  what: str, names: list[str], values: np.ndarray, least: float, most: float
) -> None:
  """Names the first cell with a value that is not finite or out of range."""
  flat = values.reshape(len(values), -1)
  low, high = flat.min(1), flat.max(1)  # NaN if any value is
  is_finite = np.isfinite(low) & np.isfinite(high)
  is_right = is_finite & (low >= least - 1e-4) & (high <= most + 1e-4)
  if is_right.all():
    return
  bad = int(is_right.argmin())
  if not is_finite[bad]:
    raise UsageError(f"{what} of cell {names[bad]} is not finite everywhere")
  allowed = f"{least:g} or more" if most == np.inf else f"{least:g} to {most:g}"
  raise UsageError(
    f"{what} of cell {names[bad]} must be {allowed}, got {low[bad]:g} to"
    f" {high[bad]:g}"
  )
