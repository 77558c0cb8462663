"""The memory that decoding an image takes and frees."""

from image_files import encode
import numpy as np
from PIL import Image
import pytest

from essl_jax.data import crops, limits

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
  ("kind", "mode", "options", "times"),
  [
    ("png", "RGB", {}, 1),
    ("jpeg", "RGB", {}, 1),
    ("jpeg", "RGB", {"progressive": True}, 2),
    ("tiff", "RGB", {}, 2),
    ("tiff", "F", {}, 3),
    ("png", "I;16", {}, 3),
    ("webp", "RGB", {}, 4),
    ("jpeg2000", "RGB", {}, 5),
    ("jpeg2000", "I;16", {"irreversible": False}, 5),
  ],
)
def test_decoders_that_take_more_memory_take_more_room(
  kind, mode, options, times, monkeypatch
):
  """A JPEG 2000 file of 200 bytes can take 3.2 GB in each thread."""
  room, taken = limits.Room(10_000), []
  monkeypatch.setattr(room, "take", taken.append)
  crops.decode(encode(Image.new(mode, (30, 20)), kind, **options), room)
  assert taken == [600 * times]


def test_images_whose_levels_are_unclear_free_their_room(monkeypatch):
  monkeypatch.setattr(limits, "FREE", 10)
  room = limits.Room(1800)
  dark = encode(Image.fromarray(np.ones((20, 30), np.uint16)))
  for _ in range(2):
    with pytest.raises(crops.BrokenImageError, match="range is unknown"):
      crops.decode(dark, room)
  assert not room.held


def test_pixels_that_pil_refuses_itself_are_told_alike(monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
  with pytest.raises(crops.BrokenImageError) as error:
    crops.decode(encode(Image.new("RGB", (9, 10))), limits.Room(80))
  told = "it has more pixels, but config.data.max_pixels allows 80"
  assert str(error.value) == told
