"""Checks of all sources: splits, shares of processes, crops and sizes."""

from collections.abc import Collection, Mapping
import re
from typing import Any

from essl_jax.errors import UsageError

SPLITS = ("train", "test")
_SLICE = re.compile(r"(\w+)(?:\[(?:(\d+)(%?))?:(?:(\d+)(%?))?\])?")


def check_share(size: int, process_index: int, process_count: int) -> range:
  """Checks the arguments of `Source.evaluation_batches`.

  Args:
    size: number of examples.
    process_index: this process.
    process_count: number of processes.

  Returns:
    Its rows. Shares follow each other and are equal but for one row, which
    the first ones have more.

  Raises:
    UsageError: there is no such process.
  """
  if not 0 <= process_index < process_count:
    raise UsageError(
      f"process_index={process_index} is not in 0..{process_count - 1}"
    )
  each, more = divmod(size, process_count)
  start = process_index * each + min(process_index, more)
  return range(start, start + each + (process_index < more))


def check_there(field: str, asked: int, there: int, things: str) -> None:
  """Refuses what asks for more than there is.

  Args:
    field: of the config, which asks.
    asked: how many.
    there: how many there are.
    things: what they are, such as "training images".

  Raises:
    UsageError: there are fewer.
  """
  if asked > there:
    raise UsageError(
      f"config.{field} {asked} is more than the {there} {things}: give a"
      f" smaller --config.{field}"
    )


def check_crops(crops: Mapping[str, Any] | None) -> None:
  """Raises ValueError where crops have no names, or that of the labels."""
  if crops is not None and (not crops or "label" in crops):
    raise ValueError(
      f"crops={sorted(crops)} must name one or more crops, none of them 'label'"
    )


def check_sizes(image_size: int | None, resize_size: int | None) -> None:
  """Checks the sizes of evaluation images.

  Args:
    image_size: side of the square cut from the centre, or None.
    resize_size: shorter side before it is cut; None is `image_size`.

  Raises:
    UsageError: a size is below 1, or the cut is larger than the image.
  """
  if image_size is not None and image_size < 1:
    raise UsageError(f"data.image_size={image_size} must be at least 1")
  if resize_size is None:
    return
  if image_size is None:
    raise UsageError(
      f"data.resize_size={resize_size} needs data.image_size, the side of the "
      "square that is cut out after resizing"
    )
  if resize_size < image_size:
    raise UsageError(
      f"data.resize_size={resize_size} is less than data.image_size="
      f"{image_size}, which is cut from the resized image: give {image_size} "
      "or more"
    )


def check_split(split: str) -> None:
  """Raises UsageError unless `split` is "train" or "test"."""
  if split not in SPLITS:
    raise UsageError(f"unknown split {split!r}: give one of {list(SPLITS)}")


def parse_split(split: str, sizes: dict[str, int]) -> tuple[str, slice]:
  """Reads a split name with an optional slice, in TFDS's notation.

  Args:
    split: "train", "train[:500]", "train[10%:]", "test[100:50%]", ...
      Percentages are rounded to the nearest example.
    sizes: number of examples by split name.

  Returns:
    The name of the split and the slice of its examples.

  Raises:
    UsageError: the notation or the name is unknown, the slice reaches past
      the end, or nothing is left.
  """
  match = _SLICE.fullmatch(split)
  if match is None:
    raise UsageError(
      f"cannot read the split {split!r}: give a name and at most one slice, "
      "such as train, train[:500], train[500:], train[10%:50%]"
    )
  name, start, start_percent, stop, stop_percent = match.groups()
  if name not in sizes:
    raise UsageError(f"unknown split {split!r}: give one of {list(sizes)}")
  size = sizes[name]

  def position(number: str | None, percent: str | None, default: int) -> int:
    if number is None:
      return default
    return round(int(number) * size / 100) if percent else int(number)

  first = position(start, start_percent, 0)
  last = position(stop, stop_percent, size)
  if not 0 <= first < last <= size:
    raise UsageError(
      f"the split {split!r} asks for examples {first} to {last} of the "
      f"{size} in {name!r}: give a non-empty slice within them"
    )
  return name, slice(first, last)


def check_file_names(fields: Collection[str], name: str) -> None:
  """Raises UsageError unless the records of a set hold their file names."""
  if "file_name" not in fields:
    raise UsageError(
      f"the images of {name} have no file names (it has"
      f" {', '.join(sorted(fields))}): set config.finetune.labels in place of"
      " config.finetune.label_list"
    )
