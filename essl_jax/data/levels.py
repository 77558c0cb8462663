"""Levels of 0 to 255 from images of any kind of numbers."""

from typing import Any

import numpy as np
from PIL import Image

_INTEGER_WHITES = (255, 65535)
_FORMAT_TAG, _WHITE_IS_ZERO = 339, 0
_SIGNED = 2
# Of TIFF: the range that a file states, for its own type and for all.
_LOW_TAGS, _HIGH_TAGS = (340, 280), (341, 281)
_PHOTOMETRIC_TAG = 262
_AT_ONCE = 2**20  # pixels, which need more memory than the image
_ADVICE = "save it with 8 bits a channel"


def stored_as(image: Image.Image) -> str:
  """How the samples of an image that is not yet loaded are stored.

  Args:
    image: from `Image.open`.

  Returns:
    PIL's raw mode, such as "RGB;16B"; empty where the decoder knows alone.
  """
  for tile in getattr(image, "tile", ()):
    arguments = tile[3]
    first = arguments if isinstance(arguments, str) else (arguments or [""])[0]
    return first if isinstance(first, str) else ""
  return ""


def to_rgb(image: Image.Image, stored: str) -> Image.Image:
  """Brings an image to eight bits in three channels.

  Bytes stay what they are. Wider numbers become them by the range that the file
  states, else by that of their type: 0 to 65535 for 16 bits, 0 to 1 for floats.
  Other floats and 32-bit integers are taken for 0 to 255 or, integers, 0 to
  65535 where they reach into the last three quarters of that range.

  Args:
    image: loaded.
    stored: from `stored_as`.

  Returns:
    The image in mode RGB; alpha is dropped.

  Raises:
    ValueError: the range of its levels cannot be known, or a level lies outside
      of it.
  """
  if image.mode.startswith(("I", "F")):
    image = Image.fromarray(_to_bytes(image, stored))
  elif ";16" in stored:  # of which PIL keeps the high bytes
    bands: Any = image.getextrema()
    colours = {"LA": 1, "CMYK": 4}.get(image.mode, 3)
    largest = max(high for _, high in bands[:colours])
    _check_bright(largest * 256, 65535, "16 bits")
  elif image.mode == "L" and _SIGNED in _tag(image, _FORMAT_TAG):
    raise ValueError(f"its levels have a sign: {_ADVICE}")
  if image.mode == "La":
    image = image.convert("LA")
  if image.mode == "P" and "transparency" in image.info:
    image = image.convert("RGBA")
  return image if image.mode == "RGB" else image.convert("RGB")


def _to_bytes(image: Image.Image, stored: str) -> np.ndarray:
  """uint8 [H, W] of an image of wide integers or floats."""
  levels = np.asarray(image)
  low, high = float(levels.min()), float(levels.max())
  if not np.isfinite((low, high)).all():
    raise ValueError("its levels are not finite everywhere")
  black, white = _range(image, stored, low, high)
  if low < black or high > white:
    raise ValueError(
      f"its levels reach from {low:g} to {high:g}, outside of {black:g} to"
      f" {white:g}: {_ADVICE}"
    )
  found = np.empty(levels.shape, np.uint8)
  rows = max(1, _AT_ONCE // levels.shape[1])
  for first in range(0, len(levels), rows):
    part = levels[first : first + rows]
    found[first : first + rows] = _scaled(part, black, white)
  is_negative = _tag(image, _PHOTOMETRIC_TAG) == (_WHITE_IS_ZERO,)
  return 255 - found if is_negative else found


def _scaled(levels: np.ndarray, black: float, white: float) -> np.ndarray:
  """Levels of 0 to 255: bytes stay what they are, integers are rounded down."""
  if levels.dtype.kind != "f":
    shifted = levels.astype(np.int64) - int(black)
    return shifted * 256 // (int(white - black) + 1)
  if (black, white) == (0, 255):
    return levels
  return np.rint((levels - black) * (255 / (white - black)))


def _range(
  image: Image.Image, stored: str, low: float, high: float
) -> tuple[float, float]:
  """The levels of black and white."""
  if image.format in ("PPM", "JPEG2000") and image.mode != "F":
    return 0, 65535  # PIL scales by what the file states
  if stored == "I;12":
    return 0, 4095
  stated = [_stated(image, tags) for tags in (_LOW_TAGS, _HIGH_TAGS)]
  if stated[1] is not None and (stated[0] or 0) < stated[1]:
    return stated[0] or 0, stated[1]
  if image.mode == "F" and low >= 0 and high <= 1:
    return 0, 1
  if image.mode.startswith("I;16") or image.format == "PNG":
    _check_bright(high, 65535, "16 bits")
    return 0, 65535
  whites: tuple[int, ...] = _INTEGER_WHITES
  if image.mode == "F" or stored in ("I;16S", "I;16BS"):
    whites = whites[:1]
  white = next((x for x in whites if high <= x), whites[-1])
  kind = "floats" if image.mode == "F" else "integers"
  _check_bright(high, white, kind)
  return 0, white


def _check_bright(high: float, white: int, kind: str) -> None:
  """Refuses an image so dark that its range is likely another one."""
  if high <= white // 4:
    raise ValueError(
      f"its levels are {kind} up to {high:g}, whose range cannot be known:"
      f" {_ADVICE}"
    )


def _stated(image: Image.Image, tags: tuple[int, ...]) -> float | None:
  """The finite number that a TIFF file has under the first of these tags."""
  for tag in tags:
    values = _tag(image, tag)
    if len(values) and np.isfinite(float(values[0])):
      return float(values[0])
  return None


def _tag(image: Image.Image, tag: int) -> tuple[Any, ...]:
  """The values of a TIFF tag; none for other files."""
  found = getattr(image, "tag_v2", {}).get(tag, ())
  return found if isinstance(found, tuple) else (found,)
