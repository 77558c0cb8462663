"""Converts images of any sample type to levels from 0 to 255."""

import math
import threading
from typing import Any

import numpy as np
from PIL import Image

from essl_jax.data.stored import Stored, is_misread, tag

_BYTES, _WORDS = 255, 65535
_FORMAT_TAG, _WHITE_IS_ZERO = 339, 0
_SIGNED = 2
# TIFF tags of the range that a file states, for its sample type and for all
# types. Some programs write the image's own extremes there.
_LOW_TAGS, _HIGH_TAGS = (340, 280), (341, 281)
_PHOTOMETRIC_TAG = 262
_AT_ONCE = 2**20  # pixels converted together, to limit memory
_ADVICE = "save it with 8 bits a channel"
_FIELD = "set --config.data.white_level to the level that is white"


class BrokenImageError(ValueError):
  """Bytes that are not a complete image; says why in one line."""


class UnclearLevelsError(BrokenImageError):
  """A complete image whose black and white levels are unknown.

  Leaving it out would select images by brightness.
  """


class Levels:
  """Black and white levels of one set, the same for all images of a kind.

  Attributes:
    white: white level of images of more than eight bits; None infers it.
  """

  def __init__(self, white: float | None = None):
    self.white = white
    self._known: dict[str, tuple[float, float]] = {}
    self._lock = threading.Lock()

  def agree(self, kind: str, black: float, white: float) -> None:
    """Records the levels that one image implies for its kind.

    Raises:
      UnclearLevelsError: another image of the kind implied other levels.
    """
    with self._lock:
      known = self._known.setdefault(kind, (black, white))
    if known != (black, white):
      raise UnclearLevelsError(
        f"its {kind} seem to be {black:g} to {white:g}, but those of another"
        f" image {known[0]:g} to {known[1]:g}: {_FIELD}, or {_ADVICE}"
      )


def to_rgb(
  image: Image.Image, stored: Stored, of_set: Levels | None = None
) -> Image.Image:
  """Converts an image to eight bits in three channels.

  Bytes stay the same. Wider samples are scaled by the white level of the set,
  else by the range that the file states, else by the range of their type: 0 to
  65535 for 16 bits, 0 to 1 for floats. Floats above 1 and 32-bit integers count
  as 0 to 255; integers above 255 count as 0 to 65535 if they reach into the
  last three quarters of that range.

  Args:
    image: loaded.
    stored: from `stored.stored_as`.
    of_set: the levels that other images of the set imply.

  Returns:
    The image in mode RGB; alpha is dropped.

  Raises:
    BrokenImageError: its samples are no valid levels.
    UnclearLevelsError: the range of its levels is unknown or differs from the
      set's, or a level lies outside it.
  """
  of_set = of_set or Levels()
  if is_misread(image, stored):
    raise BrokenImageError(
      "it stores wide samples in separate colour planes, which PIL misreads:"
      f" compress it, or {_ADVICE}"
    )
  if image.mode.startswith(("I", "F")):
    image = Image.fromarray(_to_bytes(image, stored, of_set))
  elif ";16" in stored.mode or (
    stored.most > _BYTES and len(image.getbands()) > 1
  ):
    _check_wide_colours(image, stored, of_set)
  elif image.mode == "L" and _SIGNED in tag(image, _FORMAT_TAG):
    raise BrokenImageError(f"its levels are signed: {_ADVICE}")
  if image.mode == "La":
    image = image.convert("LA")
  if image.mode == "P" and "transparency" in image.info:
    image = image.convert("RGBA")
  return image if image.mode == "RGB" else image.convert("RGB")


def _check_wide_colours(
  image: Image.Image, stored: Stored, of_set: Levels
) -> None:
  """Checks colours of more than eight bits, which PIL has cut to bytes.

  PIL scales them by the file's white level.
  """
  most = stored.most or _WORDS
  if of_set.white is not None and of_set.white != most:
    raise UnclearLevelsError(
      f"its colours range up to {most} and are read that way: set"
      f" --config.data.white_level={most}, or {_ADVICE}"
    )
  if of_set.white is None and most == _WORDS:
    bands: Any = image.getextrema()
    colours = {"LA": 1, "CMYK": 4}.get(image.mode, 3)
    largest = max(high for _, high in bands[:colours])
    # PIL rounds the samples of PPM files and takes the high bytes of others.
    is_rounded = stored.mode == "RGB"
    largest = int((largest - 0.5) * 257) if is_rounded else largest * 256
    _check_bright(largest, _WORDS, "16 bits")


def _to_bytes(image: Image.Image, stored: Stored, of_set: Levels) -> np.ndarray:
  """Converts an image of wide integers or floats to uint8 [H, W]."""
  levels = np.asarray(image)
  low, high = float(levels.min()), float(levels.max())
  if not np.isfinite((low, high)).all():
    raise BrokenImageError("some of its levels are not finite")
  black, white = _range(image, stored, (low, high), of_set)
  check_within((low, high), (black, white), stored.unit)
  found = np.empty(levels.shape, np.uint8)
  rows = max(1, _AT_ONCE // levels.shape[1])
  for first in range(0, len(levels), rows):
    part = levels[first : first + rows]
    found[first : first + rows] = _scaled(part, black, white)
  is_negative = tag(image, _PHOTOMETRIC_TAG) == (_WHITE_IS_ZERO,)
  return 255 - found if is_negative else found


def check_within(
  reach: tuple[float, float], bounds: tuple[float, float], unit: float = 1
) -> None:
  """Raises UnclearLevelsError for levels beyond black or white.

  Args:
    reach: the smallest and the largest level.
    bounds: the black and the white level.
    unit: the size of one level of the file in these numbers.
  """
  if reach[0] < bounds[0] or reach[1] > bounds[1]:
    low, high, black, white = (x / unit for x in (*reach, *bounds))
    raise UnclearLevelsError(
      f"its levels range from {low:g} to {high:g}, outside {black:g} to"
      f" {white:g}: {_FIELD}, or {_ADVICE}"
    )


def _scaled(levels: np.ndarray, black: float, white: float) -> np.ndarray:
  """Scales levels to 0 to 255: bytes stay, integers are rounded down."""
  if levels.dtype.kind != "f":
    least, most = math.ceil(black), math.floor(white)
    return (levels.astype(np.int64) - least) * 256 // (most - least + 1)
  if (black, white) == (0, _BYTES):
    return levels
  return np.rint((levels - black) * (255 / (white - black)))


def _range(
  image: Image.Image,
  stored: Stored,
  reach: tuple[float, float],
  of_set: Levels,
) -> tuple[float, float]:
  """Returns the black and the white level."""
  if of_set.white is not None:
    scaled = np.rint(of_set.white * stored.unit)
    return 0, scaled if stored.most else of_set.white
  if stored.mode == "I;12":
    return 0, 4095
  if stored.most and stored.most != _WORDS:
    return 0, _WORDS  # PIL has scaled by the file's own range
  if reach == (0, 0):
    return 0, _BYTES  # black, whatever the white level is
  kind, whites = "integers", [_BYTES, _WORDS]
  if image.mode == "F":
    kind, whites = "floats", [1, _BYTES]
  elif stored.mode in ("I;16S", "I;16BS"):
    kind, whites = "signed integers", [_BYTES]
  elif image.mode.startswith("I;16") or stored.most or image.format == "PNG":
    kind, whites = "16 bits", [_WORDS]
  black, white = _stated_range(image) or (0, 0)
  is_stated = black < white
  if not is_stated:
    black, white = 0, next((x for x in whites if reach[1] <= x), whites[-1])
  # The stated range may be only the default of the type.
  if white >= _WORDS or not (is_stated or white == 1):
    _check_bright(reach[1], white, kind)
  of_set.agree(kind, black, white)
  return black, white


def _check_bright(high: float, white: float, kind: str) -> None:
  """Raises UnclearLevelsError if an image is too dark for this range."""
  if high <= white // 4:
    raise UnclearLevelsError(
      f"its levels are {kind} up to {high:g}, so their range is unknown:"
      f" {_FIELD}, or {_ADVICE}"
    )


def _stated_range(image: Image.Image) -> tuple[float, float] | None:
  """Returns the range that a TIFF file states in its tags."""
  low, high = (_stated(image, tags) for tags in (_LOW_TAGS, _HIGH_TAGS))
  return None if high is None else (low or 0, high)


def _stated(image: Image.Image, tags: tuple[int, ...]) -> float | None:
  """Returns the finite number of the first of these TIFF tags, or None."""
  for number in tags:
    values = tag(image, number)
    if len(values) and np.isfinite(float(values[0])):
      return float(values[0])
  return None
