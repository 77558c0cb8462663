"""Checks shared by all sources: splits, processes' shares, crops, sizes."""

from collections.abc import Collection, Mapping
import re
from typing import Any

from essl_jax.errors import UsageError

SPLITS = ("train", "test")
_PART = re.compile(r"(.*\S.*)\[([^\[\]]*)\]\s*", re.DOTALL)
# Few digits: Python refuses to read numbers with thousands of digits.
_BOUND = r"(-?\d{1,15}(?:_\d{1,15}){0,5}|-?\d{1,15}(?:\.\d{0,15})?%)?"
_SLICE = re.compile(f"{_BOUND}:{_BOUND}")


class UnknownSplitError(UsageError):
  """There is no split of this `name` among the `known` ones."""

  def __init__(self, name: str, known: Collection[str]):
    super().__init__(f"unknown split {name!r}: give one of {list(known)}")
    self.name, self.known = name, tuple(known)


def check_share(size: int, process_index: int, process_count: int) -> range:
  """Checks the arguments of `Source.evaluation_batches`.

  Args:
    size: number of examples.
    process_index: this process.
    process_count: number of processes.

  Returns:
    The rows of this process. Shares are contiguous; the first ones may have one
    row more.

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
  """Checks that a config field asks for no more than there is.

  Args:
    field: of the config.
    asked: the number asked for.
    there: the number available.
    things: what is counted, such as "training images".

  Raises:
    UsageError: fewer are available.
  """
  if asked > there:
    raise UsageError(
      f"config.{field} {asked} is more than the {there} {things}: give a"
      f" smaller --config.{field}"
    )


def check_crops(crops: Mapping[str, Any] | None) -> None:
  """Raises ValueError if there are no crops, or one is named "label"."""
  if crops is not None and (not crops or "label" in crops):
    raise ValueError(
      f"crops={sorted(crops)} must name one or more crops, none of them 'label'"
    )


def check_sizes(image_size: int | None, resize_size: int | None) -> None:
  """Checks the sizes of evaluation images.

  Args:
    image_size: side of the square cropped from the centre, or None.
    resize_size: shorter side before the crop; None means `image_size`.

  Raises:
    UsageError: a size is below 1, or the crop is larger than the image.
  """
  if image_size is not None and image_size < 1:
    raise UsageError(f"data.image_size={image_size} must be at least 1")
  if resize_size is None:
    return
  if image_size is None:
    raise UsageError(
      f"data.resize_size={resize_size} needs data.image_size, the side of the "
      "square that is cropped after resizing"
    )
  if resize_size < image_size:
    raise UsageError(
      f"data.resize_size={resize_size} is less than data.image_size="
      f"{image_size}, which is cropped from the resized image: give "
      f"{image_size} or more"
    )


def check_split(split: str) -> None:
  """Raises UsageError unless `split` is "train" or "test"."""
  if split not in SPLITS:
    raise UsageError(f"unknown split {split!r}: give one of {list(SPLITS)}")


def split_names(split: str, known: Collection[str]) -> list[str]:
  """Returns the names in an expression of splits; see `parse_split`.

  Args:
    split: the expression.
    known: names of all splits.

  Returns:
    Each name once.

  Raises:
    UsageError: the notation or a name is unknown.
  """
  return list(dict.fromkeys(name for name, _ in _parts(split, known)))


def parse_split(
  split: str, sizes: Mapping[str, int]
) -> list[tuple[str, slice]]:
  """Reads an expression of splits, in TFDS's notation.

  Args:
    split: "train", "train[:500]", "train[10%:]", "test[-50%:]",
      "train+test[:1_000]", "all", ... Percentages are rounded to the nearest
      example; a negative bound counts from the end. An expression that equals
      the name of a split means that split, whatever its characters.
    sizes: number of examples by split name.

  Returns:
    Names of splits and slices of their examples, in the order of the
    expression; they may overlap.

  Raises:
    UsageError: the notation or a name is unknown, or a slice reaches past the
      end or is empty.
  """
  return [
    (name, _slice(name, bounds, sizes[name]))
    for name, bounds in _parts(split, sizes)
  ]


def _parts(split: str, known: Collection[str]) -> list[tuple[str, str]]:
  """Returns the names and the bounds, such as ":10%", in an expression."""
  found, texts = list[tuple[str, str]](), split.split("+")
  # A name may contain a plus itself; the longest match wins.
  most = 1 + max((x.count("+") for x in known), default=0)
  while texts:
    for count in range(min(most, len(texts)), 0, -1):
      part = _part("+".join(texts[:count]), known)
      if part is not None:
        found.append(part)
        break
    else:
      if texts[0].strip() != "all" or "all" in known:
        raise _not_known(split, texts[0], known)
      found += [(x, ":") for x in known]
    del texts[:count]
  return found


def _part(text: str, known: Collection[str]) -> tuple[str, str] | None:
  """Returns the known name in a text and its bounds; None if there is none."""
  match = _PART.fullmatch(text)
  for name, bounds in [(text, ":")] + ([match.groups()] if match else []):
    for each in (name, name.strip()):
      if each in known:
        return each, bounds
  return None


def _not_known(split: str, text: str, known: Collection[str]) -> UsageError:
  """Returns the error for a text without a known name."""
  name, match = text.strip(), _PART.fullmatch(text)
  if match:
    name = match[1].strip()
  if any(x in name for x in "[]"):
    return UsageError(_unread(split))
  return UnknownSplitError(name, known)


def _unread(split: str) -> str:
  return (
    f"cannot read the split {split!r}: give names, each with at most one slice,"
    " such as train, train[:500], train[-500:], train[10%:50%]+test"
  )


def _slice(name: str, bounds: str, size: int) -> slice:
  """Returns the examples between two bounds."""
  part = name if bounds == ":" else f"{name}[{bounds}]"
  match = _SLICE.fullmatch(bounds.replace(" ", ""))
  if match is None:
    raise UsageError(_unread(part))

  def position(text: str | None, default: int) -> int:
    if not text:
      return default
    if not text.endswith("%"):
      found = int(text)
    elif abs(percent := float(text[:-1])) <= 100:
      found = round(percent * size / 100)
      if percent < 0 and not found:  # rounds to none from the end, not to all
        return size
    else:
      raise UsageError(_unread(part))
    return found + size if found < 0 else found

  first, last = position(match[1], 0), position(match[2], size)
  if not 0 <= first < last <= size:
    raise UsageError(
      f"the split {part!r} asks for examples {first} to {last} of the "
      f"{size} in {name!r}: give a non-empty slice within them"
    )
  return slice(first, last)


def check_file_names(fields: Collection[str], name: str) -> None:
  """Raises UsageError unless the records of a set hold their file names."""
  if "file_name" not in fields:
    raise UsageError(
      f"the images of {name} have no file names (it has"
      f" {', '.join(sorted(fields))}): set config.finetune.labels instead of"
      " config.finetune.label_list"
    )
