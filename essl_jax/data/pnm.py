"""Decodes PPM and PGM files that PIL would read byte by byte in Python."""

import re

import numpy as np
from PIL import Image

from essl_jax.data.levels import check_within

_LONGEST_HEADER = 4096  # bytes, including comments
_COMMENT = re.compile(rb"#[^\r\n]*")
_WORDS = {b"P1": 3, b"P4": 3}  # words of a header; other kinds have four


def check_header(encoded: bytes) -> None:
  """Raises ValueError for an implausibly long header."""
  kind = encoded[:2]
  is_pnm = re.fullmatch(rb"P[0-9fy]", kind) is not None
  if is_pnm and len(encoded) > _LONGEST_HEADER:
    words = _COMMENT.sub(b" ", encoded[:_LONGEST_HEADER]).split()
    if len(words) < _WORDS.get(kind, 4):
      raise ValueError(f"its header is longer than {_LONGEST_HEADER} bytes")


def scaled(
  image: Image.Image, encoded: bytes, white_level: float | None = None
) -> Image.Image | None:
  """Decodes a binary PPM or PGM file whose white level PIL handles slowly.

  Args:
    image: from `Image.open`, not loaded.
    encoded: the file.
    white_level: white of wide gray levels; replaces the file's own.

  Returns:
    The image as PIL decodes it, but with eight bits; None for other files.

  Raises:
    ValueError: the file ends too early.
    UnclearLevelsError: a level is beyond `white_level`.
  """
  (tile,) = getattr(image, "tile", ())[:1] or (None,)
  bands = len(image.getbands())
  if tile is None or tile[0] != "ppm" or bands not in (1, 3):
    return None
  _, _, start, (_, white) = tile
  kind = np.dtype("u1" if white < 256 else ">u2")
  count = image.width * image.height * bands
  samples = np.frombuffer(encoded, kind, count, start)
  most = 65535 if image.mode == "I" else 255
  if image.mode == "I" and white_level is not None:
    check_within((0, float(samples.max())), (0, white_level))
    white = white_level
  numbers = np.arange(256**kind.itemsize)
  table = np.minimum(np.rint(numbers / white * most), most).astype(np.uint16)
  levels = (table >> 8 if most > 255 else table).astype(np.uint8)
  shape = (image.height, image.width) + (bands,) * (bands > 1)
  return Image.fromarray(levels[samples].reshape(shape))
