"""Image folders `root/<split>/<class>/**/*`, like torchvision's ImageFolder."""

from collections.abc import Mapping, Sequence
import itertools
import os

import numpy as np

from essl_jax import config as config_lib
from essl_jax.data import files as files_lib
from essl_jax.data import listing as listing_lib
from essl_jax.data.checks import (
  SPLITS,
  UnknownSplitError,
  parse_split,
  split_names,
)
from essl_jax.data.encoded import EncodedSource
from essl_jax.errors import UsageError
from essl_jax.storage import buckets
from essl_jax.texts import some

_LAYOUT = "images must be at DIR/<split>/<class>/*, with data.dir=DIR"


def open_folder(
  settings: config_lib.Data, *, classes: tuple[str, ...] = ()
) -> EncodedSource:
  """Opens image files: one folder for each split, with one for each class.

  Classes are numbered by name. See `EncodedSource` for the order and the
  handling of broken files.

  Args:
    settings: `config.data`. `dir` is the folder of the splits' folders, local
      or in a bucket. `train[:1%]` takes images from a fixed random order, so
      every class appears; `train[90%:]` shares the folder.
    classes: names of the class folders to read, such as those of ImageNet-100;
      all if empty.

  Returns:
    The source; files were listed, and one image of each split was read.

  Raises:
    UsageError: a folder is missing or empty, has fewer than two classes, the
      splits' classes differ, a class is missing, or no image can be read.
  """
  if not settings.dir:
    raise UsageError(f"data.name=folder needs data.dir: {_LAYOUT}")
  if settings.image_size is None:
    raise UsageError(
      "images in folders differ in size: set --config.data.image_size to "
      "the side of evaluation images, such as 224"
    )
  with buckets.refused(settings.dir):
    return _open(settings, settings.dir, settings.image_size, classes)


def _open(
  settings: config_lib.Data,
  directory: str,
  size: int,
  classes: Sequence[str],
) -> EncodedSource:
  """Does the work of `open_folder` once the fields are checked."""
  try:
    files = files_lib.open_folder(directory, settings.cache_gib)
  except FileNotFoundError as error:
    problem = f"data.dir={directory!r} is not a folder"
    raise UsageError(f"{problem}{_why(directory)}: {_LAYOUT}") from error
  parts = {"train": settings.train_split, "test": settings.test_split}
  known = listing_lib.folders(files, files.root)
  if not known:
    raise UsageError(f"{files.root} has no folders: {_LAYOUT}")
  names = {
    split: _names(files.root, part, known) for split, part in parts.items()
  }
  read = list(dict.fromkeys(sum(names.values(), [])))
  images = _Folders(files, read, classes)
  rows = {
    split: np.concatenate(
      [images.rows(*each) for each in parse_split(part, images.sizes)]
    )
    for split, part in parts.items()
  }
  source = EncodedSource(
    dict.fromkeys(SPLITS, images),
    rows,
    num_classes=len(images.classes),
    image_shape=(size, size, 3),
    resize=settings.resize_size or size,
    differs_in_size=True,
    max_pixels=settings.max_pixels,
    white_level=settings.white_level,
  )
  source.classes = images.classes
  return source


def _why(directory: str) -> str:
  why = buckets.missing(directory)
  return f" ({why})" if why else ""


def _names(root: str, split: str, known: Sequence[str]) -> list[str]:
  """Returns the folders that an expression of splits names."""
  try:
    return split_names(split, known)
  except UnknownSplitError as error:
    raise UsageError(
      f"{root} has no folder {error.name!r}, only {some(known, 9)}: set "
      "--config.data.train_split and --config.data.test_split to two of "
      f"them; {_LAYOUT}"
    ) from error


class _Folders:
  """The splits' folders: see `essl_jax.data.encoded.EncodedImages`.

  Attributes:
    classes: sorted names of the class folders in each.
    sizes: number of images by folder.
  """

  def __init__(
    self,
    files: files_lib.Files,
    names: Sequence[str],
    classes: Sequence[str],
  ):
    paths = {name: os.path.join(files.root, name) for name in names}
    own = {name: files.real(path) for name, path in paths.items()}
    _check_apart(own)
    lists = {
      name: listing_lib.Listing(
        files, path, list(own.values()), _classes(files, path, classes)
      )
      for name, path in paths.items()
    }
    for name, listing in lists.items():
      _check_listing(paths[name], listing)
    listing_lib.report_ignored(files.root, lists.values())
    for one, other in itertools.combinations(names, 2):
      _check_classes((one, other), [lists[x].classes for x in (one, other)])
      _check_links((one, other), listing_lib.shared(lists[one], lists[other]))
    self.classes = lists[names[0]].classes
    if len(self.classes) < 2:
      raise UsageError(
        f"{names[0]} has only the class {self.classes[0]!r}: give two or more; "
        f"{_LAYOUT}"
      )
    self.sizes = {name: len(x.files) for name, x in lists.items()}
    self._firsts = dict(
      zip(names, np.cumsum([0, *self.sizes.values()]).tolist(), strict=False)
    )
    self._files = files
    self._folders = [paths[name] for name in names]
    self._inside = [x.files for x in lists.values()]
    numbers = np.arange(len(self.classes), dtype=np.int32)
    self._labels = np.concatenate(
      [np.repeat(numbers, x.counts) for x in lists.values()]
    )

  def rows(self, name: str, chosen: slice) -> np.ndarray:
    """Returns the rows of a slice of a folder's fixed random order."""
    order = np.random.default_rng(0).permutation(self.sizes[name])
    return self._firsts[name] + np.sort(order[chosen])

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    return self._files.read(self.name(index)), int(self._labels[index])

  def size(self, index: int) -> int:
    return self._files.size(self.name(index))

  def name(self, index: int) -> str:
    return "/".join(self._place(index))

  def _place(self, index: int) -> tuple[str, str]:
    for folder, inside in zip(self._folders, self._inside, strict=True):
      if index < len(inside):
        return folder, inside[index]
      index -= len(inside)
    raise IndexError(index)

  def labels(self) -> np.ndarray:
    return self._labels

  def file_names(self) -> list[str]:
    return list(itertools.chain(*self._inside))


def _check_apart(own: Mapping[str, str]) -> None:
  """Raises UsageError if a split's folder is or lies in another split's."""
  for one, other in itertools.permutations(own, 2):
    if listing_lib.is_below(own[one], own[other]):
      raise UsageError(
        f"the split {one} leads to {own[one]}, which belongs to the split"
        f" {other} too: give parts of one split, such as {other}[:90%] and"
        f" {other}[90%:]"
      )


def _classes(
  files: files_lib.Files, path: str, chosen: Sequence[str]
) -> list[str]:
  """Returns the sorted names of a split's classes, or of the chosen ones."""
  there = listing_lib.folders(files, path)
  if not chosen:
    return there
  if missing := sorted(set(chosen) - set(there)):
    raise UsageError(
      f"{path} has no folder {some(missing)}, which config.data.classes names:"
      f" choose from {some(there)}"
    )
  return sorted(set(chosen))


def _check_listing(path: str, listing: listing_lib.Listing) -> None:
  """Raises UsageError unless every class has an image."""
  links = sum(n for kind, n in listing.ignored.items() if "link" in kind)
  note = f" ({links} link(s) into the set or to a place met before are ignored)"
  told = note if links else ""
  if not listing.files:
    raise UsageError(f"{path} has no images in folders{told}: {_LAYOUT}")
  counted = zip(listing.classes, listing.counts, strict=True)
  if empty := [name for name, count in counted if not count]:
    raise UsageError(
      f"no images in {some(empty)} of {path}{told}: remove the empty class from"
      " all splits, or add its images"
    )


def _check_links(names: Sequence[str], places: Sequence[str]) -> None:
  """Raises UsageError if links of two splits lead to one place."""
  if places:
    raise UsageError(
      f"links of {' and '.join(names)} both lead to {some(places)}: each place"
      " must belong to one split only"
    )


def _check_classes(names: Sequence[str], classes: list[Sequence[str]]) -> None:
  """Raises UsageError unless both folders have the same classes."""
  only = [sorted(set(classes[i]) - set(classes[1 - i])) for i in (0, 1)]
  if only[0] or only[1]:
    told = "; ".join(
      f"only {name} has {some(extra)}"
      for name, extra in zip(names, only, strict=True)
      if extra
    )
    raise UsageError(f"the splits have different classes: {told}: {_LAYOUT}")


PART = open_folder
