"""Image folders: `root/<split>/<class>/**/*`, as torchvision's ImageFolder."""

from collections import Counter
from collections.abc import Iterable, Sequence
import os
import pathlib
import re
import sys

import numpy as np

from essl_jax import config as config_lib
from essl_jax.data.checks import parse_split
from essl_jax.data.encoded import EncodedSource
from essl_jax.errors import UsageError
from essl_jax.texts import some

_LAYOUT = "images are expected as DIR/<split>/<class>/*, of data.dir=DIR"
# What lies beside images; any other file is taken for an image.
_NO_IMAGES = re.compile(
  r"\.(txt|xml|json|jsonl|csv|tsv|md|html?|pdf|ya?ml|log|ini|db|mat|npy|npz|h5"
  r"|pkl|pt|pth|py|ipynb|sh|zip|tar|gz|tgz|bz2|xz|7z|rar|md5|sha256|mp4|avi|mov"
  r"|wav|mp3)"
)


def open_folder(settings: config_lib.Data) -> EncodedSource:
  """Opens image files, one folder a split and one in it a class.

  Classes are numbered by name. See `EncodedSource` for the order and what
  becomes of broken files.

  Args:
    settings: `config.data`: `dir` is the folder of the splits' folders. Of
      "train[:1%]" the images are taken from a fixed random order, so that all
      classes are met; "train[90%:]" shares the folder.

  Returns:
    The source; files were listed, and one of each split was read.

  Raises:
    UsageError: a folder is missing or empty, has fewer than two classes, the
      splits' classes differ, or no image can be read.
  """
  size = settings.image_size
  if settings.dir is None:
    raise UsageError(f"data.name=folder needs data.dir: {_LAYOUT}")
  if size is None:
    raise UsageError(
      "images in folders differ in size: set --config.data.image_size to "
      "the side of evaluation images, such as 224"
    )
  root = pathlib.Path(settings.dir).expanduser()
  if not root.is_dir():
    raise UsageError(f"data.dir={settings.dir!r} is no folder: {_LAYOUT}")
  parts = {"train": settings.train_split, "test": settings.test_split}
  names = [part.split("[")[0] for part in parts.values()]
  folders = {name: _Folder(root, name) for name in dict.fromkeys(names)}
  _report_ignored(root, folders.values())
  classes = [folders[name].classes for name in names]
  _check_classes(names, classes)
  sizes = {name: len(folder.files) for name, folder in folders.items()}
  images, rows = {}, {}
  for split, part in parts.items():
    name, chosen = parse_split(part, sizes)
    order = np.random.default_rng(0).permutation(sizes[name])
    images[split], rows[split] = folders[name], np.sort(order[chosen])
  return EncodedSource(
    images,
    rows,
    num_classes=len(classes[0]),
    image_shape=(size, size, 3),
    resize=settings.resize_size or size,
    differs_in_size=True,
  )


class _Folder:
  """One split's folder: see `essl_jax.data.encoded.EncodedImages`.

  Attributes:
    path: the folder.
    classes: sorted names of the folders in it.
    files: paths in it, sorted by class and name.
    ignored: number of files that are no images, by ending.
  """

  def __init__(self, root: pathlib.Path, name: str):
    self.path = root / name
    found = sorted(_folders(root))
    if not name or not self.path.is_dir():
      raise UsageError(
        f"{root} has no folder {name!r} but {some(found, 9)}: set "
        "--config.data.train_split and --config.data.test_split to two of "
        f"them; {_LAYOUT}"
        if found
        else f"{root} has no folders: {_LAYOUT}"
      )
    self.classes = sorted(_folders(self.path))
    self.files: list[str] = []
    self.ignored: Counter[str] = Counter()
    counts = []
    for label in self.classes:
      before = len(self.files)
      self._list(label)
      counts.append(len(self.files) - before)
    self._labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    if not self.files:
      raise UsageError(f"{self.path} holds no images in folders: {_LAYOUT}")
    empty = [c for c, n in zip(self.classes, counts, strict=True) if not n]
    if empty:
      raise UsageError(
        f"{some(empty)} in {self.path} hold(s) no image: remove the empty "
        "class from all splits, or add its images"
      )

  def _list(self, label: str) -> None:
    top = os.path.join(self.path, label)
    seen = set()
    for folder, inner, files in os.walk(top, followlinks=True):
      place = os.path.realpath(folder)
      if place in seen or os.path.realpath(self.path) == place:
        inner.clear()  # a link that leads in a circle
        continue
      seen.add(place)
      inner[:] = sorted(name for name in inner if name[0] != ".")
      inside = label + folder[len(top) :]
      for file in sorted(files):
        ending = os.path.splitext(file)[1].lower()
        if file[0] == "." or _NO_IMAGES.fullmatch(ending):
          self.ignored[ending or file] += 1
        else:
          self.files.append(os.path.join(inside, file))

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    with open(self.name(index), "rb") as file:
      return file.read(), int(self._labels[index])

  def name(self, index: int) -> str:
    return os.path.join(self.path, self.files[index])

  def labels(self) -> np.ndarray:
    return self._labels

  def file_names(self) -> list[str]:
    return [file.replace(os.sep, "/") for file in self.files]


def _folders(path: pathlib.Path) -> list[str]:
  with os.scandir(path) as entries:
    return [e.name for e in entries if e.is_dir() and e.name[0] != "."]


def _check_classes(names: Sequence[str], classes: list[list[str]]) -> None:
  """Raises UsageError unless both splits have the same two or more."""
  only = [sorted(set(classes[i]) - set(classes[1 - i])) for i in (0, 1)]
  if only[0] or only[1]:
    told = "; ".join(
      f"only {name} has {some(extra)}"
      for name, extra in zip(names, only, strict=True)
      if extra
    )
    raise UsageError(f"the splits have different classes: {told}: {_LAYOUT}")
  if len(classes[0]) < 2:
    raise UsageError(
      f"{names[0]} has only the class {classes[0][0]!r}: two or more are "
      f"needed; {_LAYOUT}"
    )


def _report_ignored(root: pathlib.Path, folders: Iterable[_Folder]) -> None:
  ignored: Counter[str] = sum((f.ignored for f in folders), Counter())
  if ignored:
    kinds = ", ".join(f"{n} {kind}" for kind, n in ignored.most_common(5))
    print(
      f"essl_jax: ignored {ignored.total()} file(s) in {root} that are no "
      f"images ({kinds})",
      file=sys.stderr,
    )


PART = open_folder
