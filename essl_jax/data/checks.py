"""Checks of all sources: splits, shares of processes, crops and sizes."""

from collections.abc import Collection, Mapping
import re
from typing import Any

from essl_jax.errors import UsageError

SPLITS = ("train", "test")
_PART = re.compile(r"(.*\S.*)\[([^\[\]]*)\]\s*", re.DOTALL)
# Of few digits: Python does not read numbers of thousands.
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


def split_names(split: str, known: Collection[str]) -> list[str]:
  """The names in an expression of splits; see `parse_split`.

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
      example; a negative bound counts from the end. An expression that is the
      name of a split is that split, whatever its characters.
    sizes: number of examples by split name.

  Returns:
    Names of splits and slices of their examples, in the order of the
    expression; they may overlap.

  Raises:
    UsageError: the notation or a name is unknown, a slice reaches past the end,
      or nothing of one is left.
  """
  return [
    (name, _slice(name, bounds, sizes[name]))
    for name, bounds in _parts(split, sizes)
  ]


def _parts(split: str, known: Collection[str]) -> list[tuple[str, str]]:
  """The names and the bounds, such as ":10%", of an expression."""
  found, texts = list[tuple[str, str]](), split.split("+")
  # A name may hold a plus itself: the longest one is meant.
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
  """The known name in a text and its bounds; None where there is none."""
  match = _PART.fullmatch(text)
  for name, bounds in [(text, ":")] + ([match.groups()] if match else []):
    for each in (name, name.strip()):
      if each in known:
        return each, bounds
  return None


def _not_known(split: str, text: str, known: Collection[str]) -> UsageError:
  """What to say of a text without a known name."""
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
  """The examples between two bounds."""
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
      if percent < 0 and not found:  # none from the end, not all
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
      f" {', '.join(sorted(fields))}): set config.finetune.labels in place of"
      " config.finetune.label_list"
    )
