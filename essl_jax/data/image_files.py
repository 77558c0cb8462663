"""Reads image files without labels, from a folder of any layout."""

from collections.abc import Mapping
import hashlib

import numpy as np

from essl_jax import config as config_lib
from essl_jax.data import files as files_lib
from essl_jax.data import listing as listing_lib
from essl_jax.data.checks import SPLITS, UnknownSplitError, parse_split
from essl_jax.data.encoded import EncodedSource
from essl_jax.errors import UsageError
from essl_jax.storage import buckets
from essl_jax.texts import some

ALL = "all"  # the split of every image
_NO_LABEL = -1


def open_image_files(settings: config_lib.Data) -> EncodedSource:
  """Opens all image files below a folder, without labels.

  They may be in nested folders of any depth, such as folders of classes, whose
  names are ignored. The splits are the folders directly in it, and `all`, which
  is every image. `all[:10%]` takes images in the order of a hash of their paths
  below the folder, and `all[10%:]` takes the rest. So adding an image moves
  only images at the border.

  Args:
    settings: `config.data`. `dir` is the folder, local or in a bucket.

  Returns:
    The source, whose labels are -1 and whose `num_classes` is 0; files were
    listed, and one image of each split was read.

  Raises:
    UsageError: the folder is missing or holds no image, a split does not exist,
      or no image can be read.
  """
  if settings.image_size is None:
    raise UsageError(
      "image files differ in size: set --config.data.image_size to the side of"
      " evaluation images, such as 224"
    )
  images = _ImageFiles(settings.dir, settings.cache_gib)
  size = settings.image_size
  rows = {
    "train": images.rows(settings.train_split),
    "test": images.rows(settings.test_split),
  }
  return EncodedSource(
    dict.fromkeys(SPLITS, images),
    rows,
    num_classes=0,
    image_shape=(size, size, 3),
    resize=settings.resize_size or size,
    differs_in_size=True,
    max_pixels=settings.max_pixels,
    white_level=settings.white_level,
  )


def sizes(directory: str, cache_gib: float) -> Mapping[str, int]:
  """Returns the number of images in every split; see `open_image_files`.

  Args:
    directory: `config.data.dir`.
    cache_gib: `config.data.cache_gib`.

  Returns:
    Numbers for each folder in it, and for `all`.

  Raises:
    UsageError: the folder is missing or holds no image.
  """
  return _ImageFiles(directory, cache_gib).sizes


class _ImageFiles:
  """The files: see `essl_jax.data.encoded.EncodedImages`.

  Attributes:
    sizes: number of images by split.
  """

  def __init__(self, directory: str | None, cache_gib: float):
    if not directory:
      raise UsageError("give the folder of the images: --config.data.dir=DIR")
    with buckets.refused(directory):
      try:
        files = files_lib.open_folder(directory, cache_gib)
      except FileNotFoundError as error:
        why = buckets.missing(directory)
        raise UsageError(
          f"data.dir={directory!r} is not a folder{why and f' ({why})'}: give"
          " a folder of image files"
        ) from error
      found = listing_lib.Listing(files, files.root, [files.real(files.root)])
    listing_lib.report_ignored(files.root, [found])
    if not found.files:
      raise UsageError(
        f"{files.root} holds no images: give a folder of image files; they may"
        " be in nested folders"
      )
    if any(path.startswith(f"{ALL}/") for path in found.files):
      raise UsageError(
        f"{files.root} holds a folder `{ALL}`, but that name means the split"
        " of every image: rename it"
      )
    self._files, self._inside = files, found.files
    members: dict[str, list[int]] = {}
    for row, path in enumerate(found.files):
      name, slash, _ = path.partition("/")
      if slash:
        members.setdefault(name, []).append(row)
    self._members = {name: np.array(x) for name, x in members.items()}
    self._members[ALL] = np.arange(len(found.files))
    self.sizes = {name: len(x) for name, x in self._members.items()}

  def rows(self, split: str) -> np.ndarray:
    """Returns the rows of an expression of splits."""
    try:
      parts = parse_split(split, self.sizes)
    except UnknownSplitError as error:
      known = some(sorted(self.sizes), 9)
      raise UsageError(
        f"{self._files.root} has no folder {error.name!r}; its splits are"
        f" {known}: `{ALL}` means every image, so give for example"
        f" --config.data.train_split={ALL}[10%:]"
        f" --config.data.test_split={ALL}[:10%]"
      ) from error
    found = []
    for name, chosen in parts:
      members = self._members[name]
      order = sorted(members.tolist(), key=self._place)
      found.append(np.sort(np.array(order, np.int64)[chosen]))
    return np.concatenate(found)

  def _place(self, index: int) -> bytes:
    """Returns an image's sort key, which does not depend on other images."""
    path = self._inside[index].encode("utf-8", "surrogateescape")
    return hashlib.sha256(path).digest()

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    return self._files.read(self.name(index)), _NO_LABEL

  def size(self, index: int) -> int:
    return self._files.size(self.name(index))

  def name(self, index: int) -> str:
    return f"{self._files.root.rstrip('/')}/{self._inside[index]}"

  def labels(self) -> np.ndarray:
    return np.full(len(self._inside), _NO_LABEL, np.int32)

  def file_names(self) -> list[str]:
    return list(self._inside)


PART = open_image_files
