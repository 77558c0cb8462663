"""Checks users' sources and reports mistakes in one line."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from essl_jax.augment import View, window_name
from essl_jax.data.checks import SPLITS, check_share
from essl_jax.data.labels import check_number, check_range
from essl_jax.errors import UsageError, told

_METHODS = ("num_examples", "batches", "evaluation_batches")
_FORMS = {
  "num_classes": "a whole number",
  "image_shape": "(height, width, channels)",
  "differs_in_size": "True or False",
  "broken": 'a mapping of "train" and "test" to names',
}
Batch = dict[str, np.ndarray]


class CheckedSource:
  """Wraps a user's source and checks each batch that it yields.

  All other attributes are those of the source.
  """

  def __init__(self, where: str, source: Any):
    """Checks the source's attributes and one image of each split.

    Args:
      where: names the source in messages.
      source: the return value of the user's function.

    Raises:
      UsageError: it is not a `data.Source`, or its images have a wrong shape or
        dtype.
    """
    self._where, self._source = where, source
    with told(where):
      _check_attributes(where, source)
      for split in SPLITS:
        next(self.evaluation_batches(split, 1), None)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._source, name)

  def batches(
    self, *, crops: Mapping[str, View] | None = None, **asked: Any
  ) -> Iterator[Batch]:
    """Streams training batches: see `essl_jax.data.Source.batches`."""
    windows = list(map(window_name, crops or ())) if "windows" in asked else []
    height, width, channels = self.image_shape
    shapes = {"image": (height, width, channels)}
    if crops is not None:
      shapes = {k: (x.size, x.size, channels) for k, x in crops.items()}
    share = asked["batch_size"] // asked.get("process_count", 1)
    with told(self._where):
      for batch in self._source.batches(crops=crops, **asked):
        _check_windows(f"{self._where}: training batches", batch, windows)
        if self._check("training", batch, shapes) != share:
          raise UsageError(
            f"{self._where}: a training batch holds {len(batch['label'])}"
            f" labels but must hold {share}"
          )
        yield _with_int32(batch)
    raise UsageError(
      f"{self._where}: the training batches end but must go on forever:"
      " `batches` must start the next epoch"
    )

  def evaluation_batches(
    self,
    split: str,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Iterator[Batch]:
    """Yields all once: see `essl_jax.data.Source.evaluation_batches`."""
    found, shapes = 0, {"image": tuple(self.image_shape)}
    with told(self._where):
      share = check_share(
        self.num_examples(split), process_index, process_count
      )
      for batch in self._source.evaluation_batches(
        split,
        batch_size,
        process_index=process_index,
        process_count=process_count,
      ):
        found += self._check(split, batch, shapes)
        if found > len(share):
          break
        yield _with_int32(batch)
      least = len(share) - len(self.broken[split])
    if not least <= found <= len(share):
      number = "more" if found > len(share) else found
      raise UsageError(
        f"{self._where}: num_examples promises {len(share)} {split} images,"
        f" but evaluation_batches yields {number}"
      )

  def _check(
    self, split: str, batch: Batch, shapes: Mapping[str, tuple[int, ...]]
  ) -> int:
    """Returns the length of a batch; raises UsageError if it is wrong."""
    where = f"{self._where}: {split} batches"
    for name in (*shapes, "label"):
      if name not in batch:
        raise UsageError(f"{where} need {name!r} but have {', '.join(batch)}")
    labels = np.asarray(batch["label"])
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
      raise UsageError(
        f"{where}: 'label' must be int32 [N] but is {_form(labels)}"
      )
    check_range(labels, self.num_classes, where)
    for name, shape in shapes.items():
      images = np.asarray(batch[name])
      if images.dtype != np.uint8 or images.shape != (len(labels), *shape):
        expected = ", ".join(map(str, (len(labels), *shape)))
        raise UsageError(
          f"{where}: {name!r} must be uint8 [{expected}] but is {_form(images)}"
        )
    return len(labels)


def _check_windows(where: str, batch: Batch, names: Iterable[str]) -> None:
  """Raises UsageError for batches without the windows of their crops."""
  for name in names:
    if name not in batch:
      raise UsageError(f"{where} need {name!r} but have {', '.join(batch)}")
    found = np.asarray(batch[name])
    if found.ndim != 2 or found.shape[1] != 6 or found.dtype.kind not in "iu":
      raise UsageError(
        f"{where}: {name!r} must be int32 [N, 6] but is {_form(found)}"
      )


def _with_int32(batch: Batch) -> Batch:
  return {**batch, "label": np.asarray(batch["label"], np.int32)}


def _form(array: np.ndarray) -> str:
  return f"{array.dtype} {list(array.shape)}"


def _check_attributes(where: str, source: Any) -> None:
  """Raises UsageError for missing or wrong attributes."""
  missing = [x for x in (*_FORMS, *_METHODS) if not hasattr(source, x)]
  if missing:
    raise UsageError(
      f"{where}: a source needs {', '.join(missing)}, which"
      f" {type(source).__name__} lacks: see `data.Source`, or make a source"
      " from arrays with `data.ArraySource`"
    )
  shape, broken = source.image_shape, source.broken
  fits = {
    "num_classes": _is_whole(source.num_classes, 0),
    "image_shape": isinstance(shape, (tuple, list))
    and len(shape) == 3
    and all(map(_is_whole, shape)),
    "differs_in_size": isinstance(source.differs_in_size, (bool, np.bool_)),
    "broken": isinstance(broken, Mapping) and set(SPLITS) <= set(broken),
  }
  for name, form in _FORMS.items():
    if not fits[name]:
      raise UsageError(
        f"{where}: {name} must be {form} but is {getattr(source, name)!r}"
      )
  if source.num_classes:  # 0 if images have no labels
    check_number(source.num_classes, f"{where}: num_classes")
  for split in SPLITS:
    if not _is_whole(number := source.num_examples(split)):
      raise UsageError(
        f"{where}: num_examples({split!r}) must be a whole number above 0 but"
        f" is {number!r}"
      )


def _is_whole(value: Any, least: int = 1) -> bool:
  is_whole = isinstance(value, (int, np.integer))
  return is_whole and not isinstance(value, bool) and value >= least
