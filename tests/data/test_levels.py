"""Conversion of levels of wide integers, floats and few bits."""

import io
import struct
import zlib

from folder_helpers import open_folder
from image_files import encode, tiff
import numpy as np
from PIL import Image
import pytest

from essl_jax.data import crops
from essl_jax.data.levels import Levels, UnclearLevelsError
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick

GRAY = np.linspace(0, 255, 600).reshape(20, 30).round().astype(np.uint8)
WIDE = GRAY.astype(int)
RGB = np.repeat(WIDE[..., None], 3, -1)
WHITE = np.full((20, 30, 1), 65535)


def of(levels, kind="tiff", **options):
  """Encodes levels as PIL writes them."""
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
  """A PGM file that states its white level."""
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
  "a stated range of fractions": of(
    GRAY.astype(np.int32) + 1, tiffinfo={340: 0.5, 341: 256.9}
  ),
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
  """The file's own range counts if stated, else that of its type."""
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
  "31 bits": (of(GRAY.astype(np.int32) << 23), "outside 0 to 65535"),
  "32 bits": (gray(32, GRAY.astype("<u4") << 24), "from -2.1"),
  "signed bytes": (gray(8, GRAY // 2, format=2), "are signed"),
  "signed 16 bits": (gray(16, GRAY.astype("<i2") * 128, format=2), "to 32640"),
  "12 bits in 16, the default stated": (
    of(GRAY.astype(np.uint16) * 16, tiffinfo={281: 65535}),
    "16 bits up to 4080",
  ),
  "bytes in 32 bits, the default stated": (
    gray(32, GRAY.astype("<i4"), format=2, most=2**31 - 1),
    "integers up to 255",
  ),
  "floats, the default stated": (
    of(GRAY.astype(np.float32), tiffinfo={341: 3e38}),
    "floats up to 255",
  ),
  "beyond the stated range": (
    of(GRAY.astype(np.uint16) * 16, tiffinfo={281: 1023}),
    "outside 0 to 1023",
  ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_ranges_are_broken_images(name):
  """They never give a black image or levels that wrap around."""
  encoded, message = UNKNOWN[name]
  with pytest.raises(crops.BrokenImageError, match=message) as error:
    crops.decode(encoded)
  assert "\n" not in str(error.value)
  is_damaged = message in ("not finite", "are signed")
  assert isinstance(error.value, UnclearLevelsError) != is_damaged


DIM = GRAY.astype(np.uint16) // 3
FLOATS = (GRAY / 255).astype(np.float32)


def write_set(root, first, second):
  """Writes a set of copies of one file, except one training image."""
  for split in ("train", "val"):
    for name in ("ant", "bee"):
      folder = root / split / name
      folder.mkdir(parents=True)
      (folder / "1").write_bytes(first)
  (root / "train" / "bee" / "2").write_bytes(second)
  return root


def read_all(root, **more):
  """Returns the evaluation images of the training split, 20 x 20."""
  source = open_folder(root, image_size=20, resize_size=20, **more)
  (batch,) = source.evaluation_batches("train", 9)
  assert not source.broken["train"]
  return batch["image"]


MIXED = {
  "a dark image of 16 bits": (KNOWN["16 bits"], of(DIM * 16), "up to 1360"),
  "dark colours of 16 bits": (
    KNOWN["a PNG of 48 bits"],
    png16(RGB * 16, 2),
    "up to 3840",
  ),
  "the extremes of each image": (
    of(DIM * 100, tiffinfo={280: 0, 281: 8500}),
    of(DIM * 50, tiffinfo={280: 0, 281: 4250}),
    "16 bits seem to be 0 to 4250, but those of another image 0 to 8500",
  ),
  "the extremes of floats": (
    of(FLOATS * 4, tiffinfo={340: 0.0, 341: 4.0}),
    of(FLOATS * 2, tiffinfo={340: 0.0, 341: 2.0}),
    "floats seem to be 0 to 2, but those of another image 0 to 4",
  ),
  "floats of 0 to 255, one of them dark": (
    KNOWN["floats of 0 to 255"],
    of(FLOATS),
    "floats seem to be 0 to 1, but those of another image 0 to 255",
  ),
  "32 bits, one image dark": (
    KNOWN["32 bits of 0 to 65535"],
    of(GRAY.astype(np.int32)),
    "integers seem to be 0 to 255, but those of another image 0 to 65535",
  ),
  "a float a little too bright": (of(FLOATS), of(FLOATS * 1.02), "up to 1.02"),
  "negative floats": (of(FLOATS), of(FLOATS - 0.01), "from -0.01 to 0.99"),
}


@pytest.mark.parametrize("name", MIXED)
def test_no_image_has_levels_of_its_own(name, tmp_path):
  """All images of a set share a range; none is stretched to its extremes."""
  first, second, message = MIXED[name]
  root = write_set(tmp_path, first, second)
  with pytest.raises(UsageError, match=message) as error:
    read_all(root)
  assert "\n" not in str(error.value)
  assert f"{root}/train/bee/2: its " in str(error.value)
  assert "set --config.data.white_level" in str(error.value)


def test_a_set_of_dark_images_is_refused_at_once(tmp_path):
  root = write_set(tmp_path, of(DIM), of(DIM))
  with pytest.raises(UsageError, match=r"ant/1: its levels are 16 bits up to"):
    read_all(root)


@pytest.mark.parametrize(
  ("name", "white"),
  [
    ("a dark image of 16 bits", 65535),
    ("dark colours of 16 bits", 65535),
    ("the extremes of each image", 9999),
    ("floats of 0 to 255, one of them dark", 255),
    ("32 bits, one image dark", 65535),
  ],
)
def test_white_can_be_told(name, white, tmp_path):
  """It then holds for all images, whatever their files state."""
  first, second, _ = MIXED[name]
  images = read_all(write_set(tmp_path, first, second), white_level=white)
  for image, encoded in zip(images, (first, first, second), strict=True):
    levels = np.asarray(crops.decode(encoded, levels=Levels(white)))
    np.testing.assert_array_equal(image, levels[:, 5:25])
  wide = np.asarray(Image.open(io.BytesIO(second))).astype(int)
  if "colours" not in name:
    expected = wide * 256 // (white + 1) if white > 255 else np.rint(wide)
    assert np.abs(images[2][..., 0] - expected[:, 5:25]).max() <= 1


def test_what_a_white_does_not_fit_is_refused(tmp_path):
  for number, (encoded, white, message) in enumerate(
    (
      (KNOWN["16 bits"], 4095, "from 0 to 65535, outside 0 to 4095"),
      (KNOWN["a PNG of 48 bits"], 4095, "white_level=65535"),
    )
  ):
    root = write_set(tmp_path / f"{number}", encoded, encoded)
    with pytest.raises(UsageError, match=message):
      read_all(root, white_level=white)


def test_black_images_say_nothing_of_white(tmp_path):
  for number, kind in enumerate((np.uint16, np.float32, np.int32)):
    black = of(np.zeros_like(GRAY, kind))
    bright = {0: "16 bits", 1: "floats of 0 to 255", 2: "32 bits of 0 to 65535"}
    root = write_set(tmp_path / f"{number}", black, KNOWN[bright[number]])
    images = read_all(root)
    assert not images[:2].any()
    np.testing.assert_array_equal(images[2], RGB[:, 5:25])


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
