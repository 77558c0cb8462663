"""Host crops against PIL's and torchvision's numbers."""

from augment_helpers import assert_torchvision_boxes
from image_files import encode
import numpy as np
from PIL import Image
import pytest

from essl_jax import augment
from essl_jax.data import crops

RATIO = (3 / 4, 4 / 3)


@pytest.fixture(scope="module")
def goldens(golden):
  return golden("augmentations")


def smooth(height, width):
  """A smooth random image, in which a shift by a pixel shows."""
  small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  return Image.fromarray(small).resize(
    (width, height), Image.Resampling.BICUBIC
  )


def levels_apart(one, other):
  """Returns the largest difference in grey levels."""
  return np.abs(np.asarray(one, float) - np.asarray(other, float)).max()


@pytest.mark.parametrize("size", [32, 16])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_crops_match_pil(goldens, method, size):
  boxes = goldens["crop_boxes_top_left_height_width"]
  expected = goldens[f"resized_crop_{method}_{size}"]
  scale = 255 if expected.max() <= 1 else 1
  for image, box, one in zip(goldens["images"], boxes, expected, strict=True):
    out = crops.resized_crop(
      Image.fromarray(image), tuple(box.tolist()), size, method
    )
    assert out.dtype == np.uint8 and out.shape == (size, size, 3)
    assert levels_apart(out, one * scale) <= 1


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_host_and_device_crop_alike(method):
  image, boxes = smooth(80, 101), [(3, 20, 60, 75), (70, 0, 10, 12)]
  for box in boxes:
    on_host = crops.resized_crop(image, box, 24, method)
    on_device = augment.resized_crop(
      np.asarray(image)[None], np.array([box]), 24, method
    )
    # The host rounds once more than the device, between the two passes.
    assert levels_apart(on_host, 255 * np.asarray(on_device[0])) <= 2


@pytest.mark.parametrize(
  ("shape", "scale"),
  [((32, 32), (0.2, 1)), ((96, 128), (0.05, 0.14)), ((96, 128), (0.08, 1))],
)
def test_windows_follow_torchvision(goldens, shape, scale):
  draws = crops.crop_draws(0, "first", 0, 100_000).tolist()
  boxes = np.array([crops.crop_box(d, *shape, scale, RATIO) for d in draws])
  assert_torchvision_boxes(boxes, goldens, shape, scale)


@pytest.mark.parametrize(
  ("shape", "scale", "expected"),
  [
    ((10, 100), (0.9, 1), (0, 43, 10, 13)),
    ((100, 10), (0.9, 1), (43, 0, 13, 10)),
    ((1, 1), (0.05, 0.14), (0, 0, 1, 1)),
    ((1, 900), (0.9, 1), (0, 449, 1, 1)),
  ],
)
def test_windows_fall_back_to_the_centre(shape, scale, expected):
  for draws in crops.crop_draws(1, "first", 0, 20).tolist():
    assert crops.crop_box(draws, *shape, scale, RATIO) == expected


def test_windows_are_functions_of_seed_name_and_position():
  whole = crops.crop_draws(3, "first", 0, 40)
  np.testing.assert_array_equal(
    whole[13:29], crops.crop_draws(3, "first", 13, 16)
  )
  far = crops.crop_draws(3, "first", 10**12, 4)
  others = [
    far,
    crops.crop_draws(4, "first", 0, 4),
    crops.crop_draws(3, "second", 0, 4),
    whole[4:8],
  ]
  for other in others:
    assert np.intersect1d(whole[:4], other).size == 0
  assert whole.min() >= 0 and whole.max() < 1


@pytest.mark.parametrize(
  "shape", [(40, 60), (61, 40), (256, 256), (24, 24), (5, 7), (90, 3)]
)
def test_center_crop_matches_resize_and_crop(shape):
  resize, size = 32, 28
  image = smooth(*shape)
  # torchvision truncates the longer side and rounds the corners.
  height, width = (int(resize * side / min(shape)) for side in shape)
  resized = image.resize((width, height), Image.Resampling.BILINEAR)
  top, left = int(round((height - size) / 2)), int(round((width - size) / 2))
  expected = resized.crop((left, top, left + size, top + size))
  assert levels_apart(crops.center_crop(image, resize, size), expected) <= 1


def test_center_crop_of_a_line_of_pixels():
  line = Image.fromarray(np.full((1, 60_000, 3), 9, np.uint8))
  out = crops.center_crop(line, 256, 224)
  assert out.shape == (224, 224, 3) and (out == 9).all()


RGB = smooth(20, 30)
GRAY = RGB.convert("L")


@pytest.mark.parametrize(
  ("encoded", "expected", "levels"),
  [
    (encode(RGB), RGB, 0),
    (encode(RGB, "bmp"), RGB, 0),
    (encode(RGB, "webp", lossless=True), RGB, 0),
    (encode(RGB, "jpeg", quality=98, subsampling=0), RGB, 12),
    (encode(GRAY), GRAY.convert("RGB"), 0),
    (encode(GRAY, "jpeg", quality=95), GRAY.convert("RGB"), 4),
    (encode(RGB.convert("CMYK"), "jpeg", quality=95), RGB, 12),
    (encode(RGB.convert("RGBA")), RGB, 0),
    (encode(RGB.convert("LA")), GRAY.convert("RGB"), 0),
    (encode(RGB.quantize(200)), RGB.quantize(200).convert("RGB"), 0),
    (encode(RGB.quantize(9), transparency=bytes(9)), None, None),
    (encode(RGB.convert("1")), RGB.convert("1").convert("RGB"), 0),
    (encode(Image.fromarray(np.asarray(GRAY).astype(np.uint16) * 257)),)
    + (GRAY.convert("RGB"), 0),
    (encode(Image.new("RGB", (1, 1), (1, 2, 3))), [[(1, 2, 3)]], 0),
  ],
)
def test_every_kind_of_file_becomes_rgb(encoded, expected, levels):
  image = crops.decode(encoded)
  assert image.mode == "RGB"
  if expected is not None:
    assert levels_apart(image, expected) <= levels


@pytest.mark.parametrize(
  ("encoded", "message"),
  [
    (b"", "empty"),
    (b"no image, but text", "in no known image format"),
    (encode(RGB, "jpeg")[:-60], "truncated"),
    (encode(RGB)[:300], ":"),
    (encode(RGB)[:40], "in no known image format"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "in no known image format"),
  ],
)
def test_broken_files_are_told(encoded, message):
  with pytest.raises(crops.BrokenImageError, match=message) as error:
    crops.decode(encoded)
  assert "\n" not in str(error.value)
