"""Unit cells of photonic crystals and their densities of states."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any, Literal

import jax
import numpy as np

from essl_jax import config as config_lib
from essl_jax.config import bounds
from essl_jax.data.arrays import ArraySource
from essl_jax.data.checks import parse_split, split_names
from essl_jax.data.files import together
from essl_jax.errors import UsageError
from essl_jax.photonics import density
from essl_jax.photonics import settings as settings_lib
from essl_jax.photonics.cells import (
  HIGHEST_PERMITTIVITY,
  LOWEST_PERMITTIVITY,
  SPLITS,
)
from essl_jax.storage import buckets, places


@dataclasses.dataclass(frozen=True)
class LabelledCells:
  """Labelled cells, to learn from or to measure on.

  Attributes:
    image: float32 [N, H, H, 1], permittivities scaled to [0, 1].
    density: float32 [N, 400], the density of states at the first 400 of
      `density.frequencies()`, which the network learns.
  """

  image: np.ndarray
  density: np.ndarray

  def __len__(self) -> int:
    """Returns the number of cells."""
    return len(self.image)


class CellSource(ArraySource):
  """A `Source` of unit cells without classes, and with labelled cells aside.

  Attributes:
    labelled: cells with densities of states by split: `train`, `validation`
      and `test`.
    made: `kind` and `seed` of the cells, if a manifest has them.
    others: as in `ArraySource`, with float32 images [N, H, H, 1] in [0, 1] and
      labels of -1, which means none.
  """

  def __init__(
    self,
    train_images: np.ndarray,
    test_images: np.ndarray,
    labelled: Mapping[str, LabelledCells],
    made: Mapping[str, Any],
  ):
    """Keeps the arrays.

    Args:
      train_images: float32 [N, H, H, 1], to pre-train on.
      test_images: float32 [N, H, H, 1], to recognise transformations on.
      labelled: the three splits.
      made: `kind` and `seed` of the cells; empty if they are unknown.
    """
    self.train_images = train_images
    self.test_images = test_images
    self.train_labels = np.full(len(train_images), -1, np.int32)
    self.test_labels = np.full(len(test_images), -1, np.int32)
    self.num_classes = 1
    self.image_shape = train_images.shape[1:]
    self.labelled = labelled
    self.made = made

  def shades(self, split: str) -> tuple[np.ndarray, str]:
    """Returns mean permittivities; see `essl_jax.data.Source`."""
    images, _ = self._arrays(split)
    return images.mean(axis=(1, 2, 3)), "mean permittivity, scaled to 0–1"


def scale(permittivity: np.ndarray) -> np.ndarray:
  """Maps permittivities [N, H, H] in 1..20 to float32 [N, H, H, 1] in [0, 1].

  Reference:
    Dangovski et al. 2022 (arXiv 2111.00899), section 5.
  """
  scaled = np.asarray(permittivity, np.float32) - LOWEST_PERMITTIVITY
  return (scaled / (HIGHEST_PERMITTIVITY - LOWEST_PERMITTIVITY))[..., None]


@dataclasses.dataclass(frozen=True)
class Generate:
  """Unit cells to generate in `data.dir` if they are missing.

  Attributes:
    kind: kind of cells to generate, `blob` or `gpm`. By default nothing is
      generated.
    labelled: number of training and test cells, which have a density of states.
      A tenth as many are added for validation, so give 10 or more.
    unlabelled: number of cells without a density of states, at least 1.
    seed: seed of the cells.
  """

  kind: Literal["blob", "gpm"] | None = None
  labelled: bounds.Whole = 0
  unlabelled: bounds.Whole = 0
  seed: bounds.Seed = 0


_UNREAD = (
  *("on_device", "image_size", "resize_size", "labelled_split"),
  "labelled_dir",
)


def open_cells(
  settings: config_lib.Data, *, generate: Generate = Generate()
) -> CellSource:
  """Opens a directory of unit cells.

  Args:
    settings: `config.data`. Its `dir` holds `train.h5`, `validation.h5`,
      `test.h5` and, if a split uses it, `unlabelled.h5`; missing ones may be
      generated there. Files in a bucket are copied. The training split is for
      pre-training, such as `unlabelled[:5000]`; the test split is for
      recognising transformations, such as `test`.
    generate: what to generate if `data.dir` lacks it.

  Returns:
    The source.

  Raises:
    UsageError: there is no such directory or split, a file is broken, or the
      directory holds cells with settings other than those to generate.
  """
  for name in _UNREAD:
    if getattr(settings, name):
      raise UsageError(
        f"data.name=photonics does not read config.data.{name}: leave it unset"
      )
  if settings.dir is None:
    raise UsageError(
      "data.name=photonics needs --config.data.dir=DIR, a directory made by"
      " `python -m essl_jax.photonics.generate`"
    )
  splits = (settings.train_split, settings.test_split)
  is_read = any(SPLITS[0] in split_names(split, SPLITS) for split in splits)
  names = SPLITS if is_read else SPLITS[1:]
  cells, manifest = _read(settings, settings.dir, names, generate)
  images = {name: scale(cells[name].permittivity) for name in names}
  sizes = {name: len(images[name]) for name in names}

  def take(split: str) -> np.ndarray:
    parts = [images[name][part] for name, part in parse_split(split, sizes)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)

  labelled = {
    name: LabelledCells(
      images[name], _density(cells[name].density_of_states, name)
    )
    for name in SPLITS[1:]
  }
  there = manifest.get("settings", {})
  made = {x: there[x] for x in ("kind", "seed") if x in there}
  train_images, test_images = map(take, splits)
  return CellSource(train_images, test_images, labelled, made)


def _read(
  settings: config_lib.Data,
  directory: str,
  names: Sequence[str],
  generate: Generate,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads splits and the manifest; generates or copies them if needed."""
  # Imported here, because HDF5 is optional.
  from essl_jax.photonics import dataset, storage

  is_remote = places.is_remote(directory)
  if is_remote:
    buckets.check_folder(directory, "data.dir")
  else:
    directory = str(pathlib.Path(directory).expanduser())
  exists = places.exists if is_remote else os.path.exists
  files = [f"{name}.h5" for name in names]
  missing = [x for x in files if not exists(f"{directory}/{x}")]
  if missing and (is_remote or generate.kind is None):
    raise UsageError(
      f"data.dir={settings.dir} lacks {', '.join(missing)}:"
      " `python -m essl_jax.photonics.generate --help` says how to make them"
    )
  if exists(f"{directory}/{storage.MANIFEST}"):
    files.append(storage.MANIFEST)
  limits = (settings.max_bytes, settings.cache_gib)
  with together(directory, files, *limits) as path:
    if generate.kind is not None:
      _compare(path, generate)
      if missing:
        _generate(path, generate)
    cells = {
      name: dataset.load(path, name, max_bytes=settings.max_bytes)
      for name in names
    }
    return cells, storage.read_manifest(path)


def _density(stored: np.ndarray | None, split: str) -> np.ndarray:
  if stored is None:
    raise UsageError(
      f"{split}.h5 has no density of states: make it again with"
      " `python -m essl_jax.photonics.generate`"
    )
  return np.asarray(stored, np.float32)[:, : density.NUM_TARGETS]


def _compare(path: pathlib.Path, asked: Generate) -> None:
  """Refuses impossible settings, and existing cells with other settings."""
  from essl_jax.photonics import storage

  field = "config.data.generate"
  if asked.labelled < 10:
    raise UsageError(
      f"{field}.labelled={asked.labelled} leaves no cells to validate on (a"
      " tenth of it): give 10 or more"
    )
  if asked.unlabelled < 1:
    raise UsageError(f"{field}.unlabelled={asked.unlabelled} must be above 0")
  manifest = storage.read_manifest(path)
  if not manifest:
    return
  new = settings_lib.make(**dataclasses.asdict(asked))
  differ = [
    f"{name} {was}, but {field} has {name} {now}"
    for name, was, now in settings_lib.differences(manifest["settings"], new)
    if name in settings_lib.FLAGS
  ]
  if differ:
    raise UsageError(
      f"data.dir={path} holds cells with {', '.join(differ)}: give another"
      " --config.data.dir"
    )


def _generate(path: pathlib.Path, settings: Generate) -> None:
  """Generates the cells of a config; resumes after an interruption."""
  if jax.process_count() > 1:
    raise UsageError(
      f"data.dir={path} lacks unit cells, and several processes cannot generate"
      " them: run `python -m essl_jax.photonics.generate` first"
    )
  from essl_jax.photonics import generate

  print(
    f"generating {settings.labelled:,} labelled and {settings.unlabelled:,}"
    f" unlabelled {settings.kind} cells in {path} (only once)",
    flush=True,
  )
  names = [field.name for field in dataclasses.fields(settings)]
  generate.main(
    [
      *(f"--{name}={getattr(settings, name)}" for name in names),
      f"--out={path}",
    ]
  )


PART = open_cells
