"""White levels of images that PIL scales itself, and colour planes."""

import struct

from image_files import encode
import numpy as np
from PIL import Image
import pytest

from essl_jax.data import crops
from essl_jax.data.levels import BrokenImageError, Levels, UnclearLevelsError

pytestmark = pytest.mark.quick

GRAY = np.linspace(0, 255, 600).reshape(20, 30).round().astype(np.uint8)
TWELVE = GRAY.astype(np.uint16) * 16 + 15


def pnm(kind, white, levels):
  head = f"{kind} 30 20 {white}\n".encode()
  if kind in ("P2", "P3"):
    return head + b" ".join(b"%d" % x for x in levels.ravel())
  return head + levels.astype(">u2").tobytes()


def jpeg2000(bits, levels):
  """A file of this many bits a sample; PIL writes only 16.

  The format stores differences from half of the largest sample.
  """
  image = Image.fromarray(levels + np.uint16(2**15 - 2 ** (bits - 1)))
  encoded = bytearray(encode(image, "jpeg2000", irreversible=False))
  encoded[encoded.index(b"ihdr") + 14] = bits - 1
  encoded[encoded.index(b"\xff\x4f\xff\x51") + 42] = bits - 1
  return bytes(encoded)


COLOURS = np.repeat(TWELVE[..., None], 3, -1)
GRAYS = {
  "PGM as PIL writes it": encode(Image.fromarray(TWELVE), "ppm"),
  "PGM": pnm("P5", 65535, TWELVE),
  "plain PGM": pnm("P2", 65535, TWELVE),
  "PNG": encode(Image.fromarray(TWELVE), "png"),
  "JPEG 2000": jpeg2000(16, TWELVE),
}
RGB = {
  "PPM": pnm("P6", 65535, COLOURS),
  "plain PPM": pnm("P3", 65535, COLOURS),
}


@pytest.mark.parametrize("name", GRAYS | RGB)
def test_twelve_bits_that_are_stated_to_be_sixteen_are_refused(name):
  with pytest.raises(UnclearLevelsError, match="16 bits up to"):
    crops.decode((GRAYS | RGB)[name])


@pytest.mark.parametrize("kind", ["P2", "P5"])
@pytest.mark.parametrize("name", ["bytes", "14 bits"])
def test_other_dark_levels_are_refused_too(kind, name):
  levels = {"bytes": GRAY, "14 bits": TWELVE * 4 + 3}[name]
  with pytest.raises(UnclearLevelsError, match="16 bits up to"):
    crops.decode(pnm(kind, 65535, levels))
  colours = np.repeat(levels[..., None], 3, -1)
  with pytest.raises(UnclearLevelsError, match="16 bits up to"):
    crops.decode(pnm({"P2": "P3", "P5": "P6"}[kind], 65535, colours))


@pytest.mark.parametrize("name", GRAYS)
def test_white_is_that_of_all_gray_images(name):
  found = np.asarray(crops.decode(GRAYS[name], levels=Levels(4095)))
  np.testing.assert_array_equal(found[..., 0], GRAY)
  with pytest.raises(UnclearLevelsError, match="15 to 4095, outside 0 to 1023"):
    crops.decode(GRAYS[name], levels=Levels(1023))


@pytest.mark.parametrize("kind", ["P2", "P5"])
@pytest.mark.parametrize("white", [1023, 4095, 65535])
def test_white_goes_before_what_a_file_states(kind, white):
  """A file of 10 bits that states 12, and 12 bits with the white of 16."""
  levels = TWELVE // 4
  found = crops.decode(pnm(kind, 4095, levels), levels=Levels(white))
  expected = levels.astype(int) * 256 // (white + 1)
  assert np.abs(np.asarray(found)[..., 0].astype(int) - expected).max() <= 1
  assert np.asarray(found).max() == 255 or white > 1023
  with pytest.raises(UnclearLevelsError, match="outside 0 to 1000"):
    crops.decode(pnm(kind, 4095, levels), levels=Levels(1000))


def test_jpeg_2000_states_its_bits():
  encoded = jpeg2000(12, TWELVE)
  for levels in (None, Levels(4095)):
    found = np.asarray(crops.decode(encoded, levels=levels))
    np.testing.assert_array_equal(found[..., 0], GRAY)
  found = np.asarray(crops.decode(encoded, levels=Levels(65535)))
  assert found.max() == 15


def test_wide_colours_are_read_by_their_own_white_only():
  for kind in ("P3", "P6"):
    encoded = pnm(kind, 4095, COLOURS)
    for levels in (None, Levels(4095)):
      found = np.asarray(crops.decode(encoded, levels=levels))
      assert np.abs(found[..., 0].astype(int) - GRAY).max() <= 1
    with pytest.raises(UnclearLevelsError, match="white_level=4095"):
      crops.decode(encoded, levels=Levels(65535))
  with pytest.raises(UnclearLevelsError, match="white_level=65535"):
    crops.decode(RGB["PPM"], levels=Levels(4095))


def test_white_changes_no_bytes():
  for kind in ("ppm", "jpeg2000", "png"):
    found = crops.decode(
      encode(Image.fromarray(GRAY), kind), levels=Levels(4095)
    )
    np.testing.assert_array_equal(np.asarray(found)[..., 0], GRAY)


def planar_tiff(order, samples, photometric, *, bits=16, format=1, planes=2):
  """An uncompressed TIFF file with separate colour planes."""
  mark, sign = ("II", "<") if order == "little" else ("MM", ">")
  count = len(samples)
  kind = np.dtype({1: "u", 3: "f"}[format] + str(bits // 8)).newbyteorder(sign)
  data = [x.astype(kind).tobytes() for x in samples]
  tags = {256: [30], 257: [20], 258: [bits] * count, 259: [1]}
  tags |= {262: [photometric], 273: [0] * count, 277: [count], 278: [20]}
  tags |= {279: [len(x) for x in data], 284: [planes], 339: [format] * count}
  start = 8 + 2 + 12 * len(tags) + 4
  more, places = b"", {}
  for number, values in tags.items():
    if len(values) > 1:
      places[number] = start + len(more)
      more += bytes(4 * count)
  first = start + len(more)
  tags[273] = [first + i * len(data[0]) for i in range(count)]
  entries, more = b"", b""
  for number in sorted(tags):
    values = tags[number]
    packed = struct.pack(f"{sign}{len(values)}I", *values)
    entries += struct.pack(f"{sign}HHI", number, 4, len(values))
    entries += (
      struct.pack(f"{sign}I", places[number]) if len(values) > 1 else packed
    )
    more += packed if len(values) > 1 else b""
  head = mark.encode() + struct.pack(f"{sign}HIH", 42, 8, len(tags))
  return head + entries + bytes(4) + more + b"".join(data)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(("count", "photometric"), [(3, 2), (4, 2), (4, 5)])
def test_wide_planes_are_broken_and_planes_of_bytes_are_read(
  order, count, photometric
):
  """PIL reads wide planes as bytes."""
  samples = [GRAY] * count
  wide = planar_tiff(order, [x * np.uint16(257) for x in samples], photometric)
  with pytest.raises(BrokenImageError, match="separate colour planes") as error:
    crops.decode(wide)
  assert "\n" not in str(error.value)
  assert not isinstance(error.value, UnclearLevelsError)
  found = crops.decode(planar_tiff(order, samples, photometric, bits=8))
  if photometric == 2:
    np.testing.assert_array_equal(np.asarray(found)[..., 1], GRAY)


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_plane_of_floats_is_never_read_backwards(order):
  options = {"bits": 32, "format": 3}
  encoded = planar_tiff(order, [GRAY / 255], 1, **options)
  try:
    found = np.asarray(crops.decode(encoded))
  except BrokenImageError as error:
    assert order == "big", error
  else:
    np.testing.assert_array_equal(found[..., 0], GRAY)
