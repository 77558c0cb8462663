"""Finds out how an image file stores its samples, before decoding."""

import sys
from typing import Any, NamedTuple

from PIL import Image

_WORDS = 65535
_BITS_TAG, _PLANES_TAG, _APART = 258, 284, 2  # of TIFF
_CODESTREAM, _PRECISION = b"\xff\x4f\xff\x51", 42  # of JPEG 2000


class Stored(NamedTuple):
  """How a file stores its samples.

  Attributes:
    mode: PIL's raw mode, such as "RGB;16B"; empty if only the decoder knows it.
    most: largest sample that the file allows, if PIL scales it to its own
      white; else 0.
    unit: PIL's 16-bit value of a sample of 1 in that case.
  """

  mode: str
  most: int = 0
  unit: float = 1


def stored_as(image: Image.Image, encoded: bytes) -> Stored:
  """Returns how a file stores the samples of an image that is not loaded.

  Args:
    image: from `Image.open`.
    encoded: the file.
  """
  mode, most = "", 0
  for tile in getattr(image, "tile", ())[:1]:
    arguments: tuple[Any, ...] = (tile[3],)
    if isinstance(tile[3], tuple):
      arguments = tile[3]
    mode = next((x for x in arguments[:1] if isinstance(x, str)), "")
    if image.format == "PPM" and image.mode != "F":
      most = arguments[1] if len(arguments) > 1 else 0
      most = most or (_WORDS if ";16" in mode else 255)
  if image.format == "JPEG2000":
    bits = _jpeg2000_bits(encoded)
    return Stored(mode, 2**bits - 1, 2.0 ** (16 - bits))
  return Stored(mode, most, _WORDS / (most or _WORDS))


def _jpeg2000_bits(encoded: bytes) -> int:
  """Returns the bits of a sample from the codestream; 8 if it does not say."""
  place = encoded.find(_CODESTREAM)
  found = encoded[place + _PRECISION : place + _PRECISION + 1]
  return (found[0] & 127) + 1 if place >= 0 and found else 8


def is_misread(image: Image.Image, stored: Stored) -> bool:
  """Whether PIL reads wide samples as bytes or in the wrong byte order.

  It does so for uncompressed TIFF files with separate colour planes.
  """
  if _APART not in tag(image, _PLANES_TAG) or len(stored.mode) != 1:
    return False
  if stored.mode in "IF":
    little = getattr(image, "tag_v2").prefix == b"II"  # noqa: B009
    return little != (sys.byteorder == "little")
  return max(tag(image, _BITS_TAG), default=0) > 8


def tag(image: Image.Image, number: int) -> tuple[Any, ...]:
  """Returns the values of a TIFF tag; empty for other files."""
  found = getattr(image, "tag_v2", {}).get(number, ())
  return found if isinstance(found, tuple) else (found,)
