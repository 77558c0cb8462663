"""What levels become in images of wide integers, floats and few bits."""

import struct
import zlib

from image_files import encode, tiff
import numpy as np
from PIL import Image
import pytest

from essl_jax.data import crops

pytestmark = pytest.mark.quick

GRAY = np.linspace(0, 255, 600).reshape(20, 30).round().astype(np.uint8)
WIDE = GRAY.astype(int)
RGB = np.repeat(WIDE[..., None], 3, -1)
WHITE = np.full((20, 30, 1), 65535)


def of(levels, kind="tiff", **options):
  """The file of levels as PIL writes them."""
  return encode(Image.fromarray(levels), kind, **options)


def gray(bits, levels, **tags):
  """A grayscale TIFF file whose tags PIL does not write."""
  if bits == 12:  # two in three bytes
    pairs = levels.reshape(-1, 2)
    high, low = pairs[:, 0] >> 4, pairs[:, 1] & 255
    middle = (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8
    levels = np.stack([high, middle, low], 1).astype(np.uint8)
  return tiff(30, 20, bits, levels.tobytes(), **tags)


def png16(levels, colour):
  """A PNG file of 16 bits a channel, which PIL does not write."""
  rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
  header = struct.pack(">IIBBBBB", 30, 20, 16, colour, 0, 0, 0)
  chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(x)) + k + x + struct.pack(">I", zlib.crc32(k + x))
    for k, x in chunks
  )


def pgm(white, levels):
  """A PGM file that states its white."""
  head = f"P5 30 20 {white}\n".encode()
  return head + levels.astype(">u2").tobytes()


KNOWN = {
  "floats of 0 to 1": of((GRAY / 255).astype(np.float32)),
  "floats of 0 to 255": of(GRAY.astype(np.float32)),
  "compressed floats": of(
    (GRAY / 255).astype(np.float32), compression="tiff_lzw"
  ),
  "white is 0.0": gray(
    32, (1 - GRAY / 255).astype("<f4"), format=3, photometric=0
  ),
  "a stated range": of(
    GRAY.astype(np.float32) * 7 + 7, tiffinfo={340: 7.0, 341: 1792.0}
  ),
  "32 bits of 0 to 255": of(GRAY.astype(np.int32)),
  "32 bits of 0 to 65535": of(GRAY.astype(np.int32) * 257),
  "signed 16 bits of 0 to 255": gray(16, GRAY.astype("<i2"), format=2),
  "signed 16 bits, stated": gray(
    16, GRAY.astype("<i2") * 128, format=2, most=32767
  ),
  "16 bits": of(GRAY.astype(np.uint16) * 257),
  "16 bits, white is 0": gray(
    16, (255 - GRAY).astype("<u2") * 257, photometric=0
  ),
  "12 bits in 16, stated": of(
    GRAY.astype(np.uint16) * 16, tiffinfo={281: 4095}
  ),
  "12 bits": gray(12, WIDE * 16),
  "a PNG of 16 bits": of(GRAY.astype(np.uint16) * 257, "png"),
  "a PNG of 16 bits and alpha": png16(
    np.concatenate([RGB[..., :1] * 257, WHITE], -1), 4
  ),
  "a PNG of 48 bits": png16(RGB * 257, 2),
  "a PGM of 12 bits": pgm(4095, WIDE * 16),
  "a PGM of 16 bits": pgm(65535, WIDE * 257),
  "JPEG 2000 of 16 bits": of(
    GRAY.astype(np.uint16) * 257, "jpeg2000", irreversible=False
  ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_ranges_become_0_to_255(name):
  """The file's own range where it says one, else that of its type."""
  found = crops.decode(KNOWN[name])
  assert found.mode == "RGB"
  np.testing.assert_array_equal(np.asarray(found), RGB)


UNKNOWN = {
  "12 bits in 16": (of(GRAY.astype(np.uint16) * 16), "16 bits up to 4080"),
  "14 bits in 16": (of(GRAY.astype(np.uint16) * 64), "16 bits up to 16320"),
  "8 bits in 16": (of(GRAY.astype(np.uint16), "png"), "16 bits up to 255"),
  "12 bits in 48": (png16(RGB * 16, 2), "16 bits up to 3840"),
  "12 bits in 64": (
    png16(np.concatenate([RGB * 16, WHITE], -1), 6),
    "16 bits up to 3840",
  ),
  "12 bits in 16 and alpha": (
    png16(np.concatenate([RGB[..., :1] * 16, WHITE], -1), 4),
    "16 bits up to 3840",
  ),
  "high dynamic range": (of((GRAY / 50).astype(np.float32)), "floats up to 5"),
  "negative floats": (of((GRAY - 99.0).astype(np.float32)), "from -99 to 156"),
  "not a number": (
    of(np.where(GRAY == 3, np.nan, 0.5).astype(np.float32)),
    "not finite",
  ),
  "infinity": (
    of(np.where(GRAY == 3, np.inf, 0.5).astype(np.float32)),
    "not finite",
  ),
  "floats of 0 to 65535": (of(GRAY * np.float32(257)), "from 0 to 65535"),
  "31 bits": (of(GRAY.astype(np.int32) << 23), "outside of 0 to 65535"),
  "32 bits": (gray(32, GRAY.astype("<u4") << 24), "from -2.1"),
  "signed bytes": (gray(8, GRAY // 2, format=2), "have a sign"),
  "signed 16 bits": (gray(16, GRAY.astype("<i2") * 128, format=2), "to 32640"),
  "beyond the stated range": (
    of(GRAY.astype(np.uint16) * 16, tiffinfo={281: 1023}),
    "outside of 0 to 1023",
  ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_ranges_are_broken_images(name):
  """Never a black image, and never one whose levels wrap around."""
  encoded, message = UNKNOWN[name]
  with pytest.raises(crops.BrokenImageError, match=message) as error:
    crops.decode(encoded)
  assert "\n" not in str(error.value)


def test_the_first_picture_of_an_animation_is_taken():
  one, other = (Image.fromarray(x) for x in (GRAY, 255 - GRAY))
  more = {"save_all": True, "append_images": [other]}
  for kind, options in (("gif", {}), ("png", {}), ("webp", {"lossless": True})):
    mode = "RGB" if kind == "webp" else "L"
    encoded = encode(one.convert(mode), kind, **options, **more)
    np.testing.assert_array_equal(np.asarray(crops.decode(encoded)), RGB)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "PA", "CMYK", "RGBA"])
def test_bytes_in_tiff_files_stay_what_they_are(mode):
  image = Image.fromarray(GRAY).convert("RGB").convert(mode)
  found = crops.decode(encode(image, "tiff"))
  np.testing.assert_array_equal(
    np.asarray(found), np.asarray(image.convert("RGB"))
  )
