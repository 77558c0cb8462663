"""The sets of images to which features are transferred, where at hand."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os

from essl_jax import config as config_lib
from essl_jax import data
from essl_jax.config.schema import find_source
from essl_jax.data.checks import SPLITS, UnknownSplitError
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.storage import places
from essl_jax.texts import first_line

_VALIDATION = ("validation", "val")  # names of such splits
# Fields of `config.data` that are not of one set: how images are read.
_OF_RUN = ("cache_gib", "white_level", "max_pixels", "max_bytes")


@dataclasses.dataclass(frozen=True)
class TransferSet:
  """Images of classes, in two parts to learn from and one to be tested on.

  Attributes:
    source: whose split `train` is learned from and `test` is tested on.
    validation: whose split `test` is the set's own validation split; None
      where it has none.
    splits: what the set calls them: `train`, `validation` and `test`.
  """

  source: data.Source
  validation: data.Source | None
  splits: Mapping[str, str | None]

  @property
  def sizes(self) -> list[int]:
    """What must be the same for all processes."""
    source = self.source
    found = [source.num_classes]
    found += [source.num_examples(split) for split in ("train", "test")]
    more = self.validation
    return [*found, more.num_examples("test")] if more else found

  @property
  def broken(self) -> dict[str, Sequence[str]]:
    """Images that this process could not read so far, by the set's splits."""
    found = {split: self.source.broken[split] for split in SPLITS}
    if self.validation is not None:
      found["validation"] = self.validation.broken["test"]
    return found


@dataclasses.dataclass(frozen=True)
class Shelf:
  """Where sets are looked for.

  Attributes:
    dir: the TFDS data directory; None is TFDS's own.
    size: side in pixels that images are brought to.
    settings: `config.data`, whose limits and levels hold for these sets too.
  """

  dir: str | None
  size: int
  settings: config_lib.Data = config_lib.Data(name="")

  def find(
    self, names: Sequence[str]
  ) -> tuple[dict[str, TransferSet], dict[str, str]]:
    """Opens those sets that all processes have.

    Args:
      names: folders, `.npz` files, known sources, or sets of TFDS, which are
        not downloaded.

    Returns:
      Sets by name, and by name why others are left out.
    """
    found, left_out = {}, {}
    for name in names:
      try:
        found[name] = self.open(name)
      except UsageError as error:
        left_out[name] = first_line(error)
    mine = json.dumps({name: x.sizes for name, x in found.items()})
    everybody = [json.loads(x) for x in parallel.gather_text(mine)]
    for name in list(found):
      if any(x.get(name) != found[name].sizes for x in everybody):
        del found[name]
        left_out[name] = "the processes do not have the same images"
    return found, left_out

  def open(self, name: str) -> TransferSet:
    """Opens one set; UsageError where it is not at hand."""
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
      raise first
    test, *others = there
    # A set without a split `test` is tested on the other one.
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
    if "/" in name and (places.is_remote(name) or os.path.isdir(name)):
      return config_lib.Data(
        name="folder", dir=name, image_size=self.size, **of_run
      )
    if find_source(name) is not None or name.endswith(".npz"):
      return config_lib.Data(name=name, **of_run)
    # TensorFlow's side of the package is not for everybody.
    from essl_jax.data.prepared import open_builder

    features = open_builder(name, self.dir, prepare=False).info.features
    is_of_images = hasattr(features, "keys") and "image" in features
    differs = is_of_images and None in features["image"].shape[:2]
    size = self.size if differs else None
    return config_lib.Data(name=name, dir=self.dir, image_size=size, **of_run)


def _is_absent(error: UsageError) -> bool:
  """Whether it says that there is no such split."""
  cause = error.__cause__
  is_unknown = any(isinstance(x, UnknownSplitError) for x in (error, cause))
  return is_unknown or type(cause) in (KeyError, ValueError)  # of TFDS
