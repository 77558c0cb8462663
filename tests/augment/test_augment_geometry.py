"""Crops, flips and blur against numbers of PIL and torchvision."""

from augment_helpers import IMAGES, assert_levels, assert_torchvision_boxes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax import augment


@pytest.fixture(scope="module")
def goldens(golden):
  return golden("augmentations")


@pytest.mark.parametrize("size", [32, 16])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_resized_crop_matches_pil(goldens, method, size):
  boxes = goldens["crop_boxes_top_left_height_width"]
  crop = jax.jit(augment.resized_crop, static_argnums=(2, 3))
  out = crop(goldens["images"], boxes, size, method)
  assert_levels(out, goldens[f"resized_crop_{method}_{size}"])


@pytest.mark.parametrize("size", [64, 24])
def test_resized_crop_of_large_images_matches_pil(goldens, size):
  boxes = goldens["big_boxes_top_left_height_width"]
  images = np.stack([goldens["big_image"]] * len(boxes))
  out = augment.resized_crop(images, boxes, (size, size), "bicubic")
  assert_levels(out, goldens[f"big_resized_crop_bicubic_{size}"])


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_resized_crop_reads_nothing_outside_its_box(method):
  other = np.zeros_like(IMAGES)
  other[:, 3:11, 5:15] = IMAGES[:, 3:11, 5:15]
  boxes = np.tile([[3, 5, 8, 10]], (8, 1))
  one = augment.resized_crop(IMAGES, boxes, (16, 7), method)
  two = augment.resized_crop(other, boxes, (16, 7), method)
  assert one.shape == (8, 16, 7, 3)
  np.testing.assert_array_equal(one, two)


def test_resized_crop_of_everything_is_the_image():
  boxes = np.tile([[0.0, 0.0, 20.0, 24.0]], (8, 1))
  out = augment.resized_crop(IMAGES, boxes, (20, 24))
  assert_levels(out, IMAGES, 1e-3)


def test_center_crop_resize_matches_torchvision(goldens):
  out = augment.center_crop_resize(goldens["images"], 36, 32)
  assert_levels(out, goldens["probe_resize36_center32_bicubic"])


def test_center_crop_resize_keeps_the_aspect():
  out = augment.center_crop_resize(IMAGES, 20, 20, "bilinear")
  assert_levels(out, IMAGES[:, :, 2:22], 1e-3)
  with pytest.raises(ValueError, match="resize=16.*17"):
    augment.center_crop_resize(IMAGES, 16, 17)


@pytest.mark.parametrize("sigma", ["0.1", "0.5", "1.0", "2.0"])
def test_blur_matches_pil(goldens, sigma):
  image = goldens["big_image"][None]
  expected = goldens[f"pil_gaussian_blur_{sigma}"][None]
  assert_levels(augment.gaussian_blur(image, float(sigma)), expected)
  traced = jax.jit(augment.gaussian_blur)(image, jnp.asarray([float(sigma)]))
  assert_levels(traced, expected)


def test_blur_has_the_variance_asked_for():
  impulse = np.zeros((2, 1, 81, 3), np.float32)
  impulse[:, :, 40] = 1
  out = np.asarray(augment.gaussian_blur(impulse, np.array([1.5, 5.0])))
  mass = out[:, 0, :, 0] / out[:, 0, :, 0].sum(1, keepdims=True)
  variance = (mass * (np.arange(81) - 40) ** 2).sum(1)
  np.testing.assert_allclose(variance, [1.5**2, 5.0**2], rtol=0.1)
  traced = jax.jit(augment.gaussian_blur, static_argnames="max_sigma")
  np.testing.assert_allclose(
    traced(impulse, np.array([1.5, 5.0]), max_sigma=5.0), out, atol=1 / 255
  )


def test_flip_mirrors_where_told():
  mask = np.arange(8) % 3 == 0
  out = np.asarray(augment.horizontal_flip(IMAGES, mask)) * 255
  expected = IMAGES.copy()
  expected[mask] = IMAGES[mask][:, :, ::-1]
  np.testing.assert_allclose(out, expected, atol=1e-3)
  everything = augment.horizontal_flip(IMAGES)
  assert_levels(everything, IMAGES[:, :, ::-1], 1e-3)


@pytest.mark.parametrize(
  ("shape", "scale"),
  [((32, 32), (0.2, 1)), ((96, 128), (0.05, 0.14)), ((96, 128), (0.08, 1))],
)
def test_crop_boxes_follow_torchvision(goldens, shape, scale):
  boxes = augment.sample_crop_boxes(
    jax.random.key(0), 200_000, (*shape, 3), scale, (3 / 4, 4 / 3)
  )
  assert boxes.dtype == jnp.int32
  boxes = np.asarray(boxes, np.float64)
  assert_torchvision_boxes(boxes, goldens, shape, scale)


@pytest.mark.parametrize(
  ("shape", "expected"),
  [((10, 100), [0, 43, 10, 13]), ((100, 10), [43, 0, 13, 10])],
)
def test_crop_boxes_fall_back_to_the_centre(shape, expected):
  boxes = augment.sample_crop_boxes(
    jax.random.key(0), 5, shape, (0.9, 1), (3 / 4, 4 / 3)
  )
  np.testing.assert_array_equal(boxes, [expected] * 5)
