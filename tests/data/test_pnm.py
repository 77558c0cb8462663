"""PPM and PGM files are read fast, with PIL's results."""

import io
import time

import numpy as np
from PIL import Image
import pytest

from essl_jax.data import crops, pnm

pytestmark = pytest.mark.quick

HEADS = {1: b"P5\n# by hand\n30 20 %d\n", 3: b"P6 30 20 %d\n"}


@pytest.mark.parametrize("bands", HEADS)
@pytest.mark.parametrize("white", [1, 3, 100, 254, 256, 300, 1023, 4095, 65534])
def test_any_white_is_read_as_pil_reads_it(bands, white):
  kind = "u1" if white < 256 else ">u2"
  generator = np.random.default_rng(0)
  most = min(white + white // 9, 255 if white < 256 else 65535)  # some beyond
  samples = generator.integers(0, most + 1, 600 * bands).astype(kind)
  encoded = HEADS[bands] % white + samples.tobytes()
  image = Image.open(io.BytesIO(encoded))
  assert pnm.scaled(image, encoded) is not None
  expected = np.asarray(image).reshape(20, 30, bands)
  if image.mode == "I":
    expected = expected * 256 // 65536
  found = np.asarray(crops.decode(encoded))
  np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))
  with pytest.raises(crops.BrokenImageError):
    crops.decode(encoded[:-1])


@pytest.mark.parametrize("white", [255, 65535])
def test_what_pil_reads_fast_is_left_to_it(white):
  encoded = HEADS[1] % white + bytes(1200)
  assert pnm.scaled(Image.open(io.BytesIO(encoded)), encoded) is None
  assert crops.decode(encoded).size == (30, 20)


def test_large_files_are_read_in_no_time():
  """PIL takes 30 s for this one, in Python."""
  encoded = b"P5 3000 3000 4095\n" + bytes(2 * 3000 * 3000)
  start = time.monotonic()
  assert crops.decode(encoded).size == (3000, 3000)
  assert time.monotonic() - start < 5


@pytest.mark.parametrize("kind", [b"P1", b"P3", b"P5", b"P6", b"Pf"])
@pytest.mark.parametrize("rest", [b"#" * 10**6, b"#\n" * 10**6, b" " * 10**6])
def test_a_header_without_end_is_no_image(kind, rest):
  with pytest.raises(
    crops.BrokenImageError, match="header is longer than 4096"
  ):
    crops.decode(kind + b" 30 " + rest)
