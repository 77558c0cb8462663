"""Opens the sets of images to which features are transferred."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
from typing import Any

from essl_jax import config as config_lib
from essl_jax import data
from essl_jax.config.schema import find_source
from essl_jax.data.checks import SPLITS, UnknownSplitError
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.storage import buckets, places
from essl_jax.texts import first_line, some

_VALIDATION = ("validation", "val")  # names of such splits
# Fields of `config.data` that apply to every set: how images are read.
_OF_RUN = ("cache_gib", "white_level", "max_pixels", "max_bytes")


class MissingPathError(UsageError):
  """The path of a set does not exist."""


@dataclasses.dataclass(frozen=True)
class TransferSet:
  """Labelled images for training, validation and testing.

  Attributes:
    source: its split `train` is for training and `test` for testing.
    validation: its split `test` is the set's own validation split; None if the
      set has none.
    splits: the set's names for `train`, `validation` and `test`.
  """

  source: data.Source
  validation: data.Source | None
  splits: Mapping[str, str | None]

  @property
  def sizes(self) -> list[int]:
    """The number of classes and of images, which all processes must share."""
    source = self.source
    found = [source.num_classes]
    found += [source.num_examples(split) for split in ("train", "test")]
    more = self.validation
    return [*found, more.num_examples("test")] if more else found

  @property
  def broken(self) -> dict[str, Sequence[str]]:
    """Names of images that this process could not read so far, by split."""
    found = {split: self.source.broken[split] for split in SPLITS}
    if self.validation is not None:
      found["validation"] = self.validation.broken["test"]
    return found


@dataclasses.dataclass(frozen=True)
class Shelf:
  """Finds sets by name.

  Attributes:
    dir: the TFDS data directory; None means TFDS's default.
    size: side in pixels to which images are resized.
    settings: `config.data`; its limits and levels apply to these sets too.
  """

  dir: str | None
  size: int
  settings: config_lib.Data = config_lib.Data(name="")

  def find(
    self, names: Sequence[str], *, refuse_missing: bool = False
  ) -> tuple[dict[str, TransferSet], dict[str, str]]:
    """Opens those sets that all processes have.

    Args:
      names: folders, `.npz` files, known sources, or sets of TFDS, which are
        not downloaded.
      refuse_missing: whether a path that does not exist is an error; otherwise
        the set is left out.

    Returns:
      Sets by name, and the reasons why others are left out, by name.

    Raises:
      UsageError: a path does not exist in one of the processes.
    """
    found, left_out, missing = {}, {}, []
    for name in names:
      try:
        found[name] = self.open(name)
      except UsageError as error:
        left_out[name] = first_line(error)
        if isinstance(error, MissingPathError):
          missing.append(left_out[name])
    sizes = {name: x.sizes for name, x in found.items()}
    mine = json.dumps({"sizes": sizes, "missing": missing})
    everybody = [json.loads(x) for x in parallel.gather_text(mine)]
    missing = [line for x in everybody for line in x["missing"]]
    if refuse_missing and missing:
      raise UsageError(missing[0])
    for name in list(found):
      if any(x["sizes"].get(name) != found[name].sizes for x in everybody):
        del found[name]
        left_out[name] = "the processes do not have the same images"
    return found, left_out

  def open(self, name: str) -> TransferSet:
    """Opens one set.

    Args:
      name: as for `find`.

    Returns:
      The set.

    Raises:
      MissingPathError: the name is a path that does not exist.
      UsageError: the set is not available or has another form.
    """
    settings = self._settings(name)
    open_with = lambda test: data.open_source(
      dataclasses.replace(settings, test_split=test)
    )
    there, first = {}, None
    for split in ("test", *_VALIDATION):
      try:
        there[split] = open_with(split)
      except UsageError as error:
        if not _is_absent(error):
          raise  # another split would not be what its owner meant
        first = first or error
    if not there:
      assert first is not None
      told = [getattr(x, "known", ()) for x in (first, first.__cause__)]
      known = sorted({name for names in told for name in names})
      has = f", and has {some(known, 9)}" if known else ""
      raise UsageError(
        f"{name} needs the splits train and test (or {' or '.join(_VALIDATION)}"
        f"){has}"
      ) from first
    test, *others = there
    # A set without a split `test` is tested on its validation split.
    own = others[0] if others else None
    source = there[test]
    labels = [
      next(iter(source.evaluation_batches(split, 1)))["label"].min()
      for split in SPLITS
    ]
    if min(labels) < 0 or source.num_classes < 2:
      raise UsageError(f"{name} has no labels of two classes or more")
    splits = {"train": "train", "validation": own, "test": test}
    return TransferSet(source, there[own] if own else None, splits)

  def _settings(self, name: str) -> config_lib.Data:
    """The fields of `config.data` that open a set."""
    of_run = {x: getattr(self.settings, x) for x in _OF_RUN}
    if path := _path(name):
      _check_there(name, path)
      if path.endswith(".npz"):
        return config_lib.Data(name=path, **of_run)
      return config_lib.Data(
        name="folder", dir=path, image_size=self.size, **of_run
      )
    if find_source(name) is not None:
      return config_lib.Data(name=name, **of_run)
    features = _open_builder(name, self.dir).info.features
    is_of_images = hasattr(features, "keys") and "image" in features
    differs = is_of_images and None in features["image"].shape[:2]
    size = self.size if differs else None
    return config_lib.Data(name=name, dir=self.dir, image_size=size, **of_run)


def _path(name: str) -> str:
  """The path that a name stands for; empty for a source or a set of TFDS."""
  if places.is_remote(name):
    return name
  path = os.path.expanduser(name)
  is_path = name.startswith(("/", ".", "~")) or name.endswith(("/", ".npz"))
  # TFDS has names with a slash, too.
  return path if is_path or ("/" in name and os.path.isdir(path)) else ""


def _check_there(name: str, path: str) -> None:
  """Raises MissingPathError unless there is a folder, or an `.npz` file."""
  field, is_file = "config.transfer.sets", path.endswith(".npz")
  if not places.is_remote(path):
    is_there = (os.path.exists if is_file else os.path.isdir)(path)
  elif is_file:
    is_there = buckets.holds(path, field)
  else:
    with buckets.refused(path):
      is_there = places.is_folder(places.locate(path, field))
  if not is_there:
    raise MissingPathError(_nothing(name, path))


def _nothing(name: str, path: str) -> str:
  """The message for a path that does not exist."""
  kind = "file" if path.endswith(".npz") else "folder"
  where = path if places.is_remote(path) else os.path.abspath(path)
  return (
    f"config.transfer.sets names {name}, and there is no {kind} {where}: give a"
    " folder of <split>/<class>/*, an .npz file or the name of a TFDS set, or"
    " leave it out"
  )


def _open_builder(name: str, directory: str | None) -> Any:
  """Returns the builder of a TFDS set; UsageError if it is not available."""
  # Imported here: not every installation has TensorFlow.
  from essl_jax.data import prepared

  try:
    return prepared.open_builder(name, directory, prepare=False)
  except UsageError as error:
    if "/" in name and isinstance(error, prepared.UnknownSetError):
      raise MissingPathError(_nothing(name, name)) from error
    told = first_line(error).replace("data.name=", "")
    if os.path.isdir(name):
      told += f"; the folder of that name is ./{name}"
    raise UsageError(told) from error


def _is_absent(error: UsageError) -> bool:
  """Whether an error says that there is no such split."""
  cause = error.__cause__
  is_unknown = any(isinstance(x, UnknownSplitError) for x in (error, cause))
  return is_unknown or type(cause) in (KeyError, ValueError)  # of TFDS
