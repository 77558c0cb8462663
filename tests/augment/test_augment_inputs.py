"""Augmentations of sharded, 64-bit and wrong inputs."""

import functools

from augment_helpers import ADJUST, IMAGES
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from essl_jax import augment
from essl_jax.augment import View, random_view

FLOATS = (IMAGES / 255).astype(np.float32)
FACTORS = np.linspace(0.1, 0.4, 8, dtype=np.float32)
BOXES = np.array([[1, 2, 8, 9]] * 8, np.float32)
KEYS = jax.random.split(jax.random.key(1), 8)
VIEW = View(size=8, blur=0.5, blur_sigma=(0.1, 0.5), solarize=0.5)
GROUPED = View(size=8, jitter_probability=0, groups=("rotation",))
# Functions and their arrays, with one entry per image.
CASES = {
  name: (function, FLOATS, FACTORS) for name, function in ADJUST.items()
} | {
  "gray": (augment.to_grayscale, IMAGES),
  "solarize": (augment.solarize, FLOATS, FACTORS),
  "normalize": (
    lambda images: augment.normalize(images, (0.5,) * 3, (0.2,) * 3),
    IMAGES,
  ),
  "flip": (
    lambda images, x: augment.horizontal_flip(images, x > 0.2),
    FLOATS,
    FACTORS,
  ),
  "blur": (
    lambda images, x: augment.gaussian_blur(images, x, max_sigma=0.4),
    FLOATS,
    FACTORS,
  ),
  "crop": (
    lambda images, boxes: augment.resized_crop(images, boxes, 8),
    FLOATS,
    BOXES,
  ),
  "centre": (lambda images: augment.center_crop_resize(images, 10, 8), FLOATS),
  "boxes": (
    lambda keys: augment.sample_crop_boxes(
      keys, 8, (20, 24), (0.2, 1), (0.5, 2)
    ),
    KEYS,
  ),
  "view": (lambda keys, x: random_view(keys, x, VIEW), KEYS, FLOATS),
  "view by one key": (
    lambda images: random_view(jax.random.key(2), images, VIEW),
    IMAGES,
  ),
  "groups": (
    lambda keys, x: random_view(keys, x, GROUPED, extra="half_swap"),
    KEYS,
    FLOATS,
  ),
}


@functools.cache
def _jitted(name):
  return jax.jit(CASES[name][0])


@functools.cache
def _expected(name):
  return np.asarray(_jitted(name)(*CASES[name][1:]))


@pytest.mark.parametrize("name", CASES)
def test_explicit_shardings_change_nothing(name):
  """Images sharded over `jax.make_mesh` give the result of one device."""
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  placed = jax.device_put(CASES[name][1:], NamedSharding(mesh, P("a")))
  found = _jitted(name)(*placed)
  np.testing.assert_allclose(found, _expected(name), rtol=0, atol=1e-6)
  assert found.sharding.is_equivalent_to(placed[0].sharding, found.ndim)


@pytest.mark.parametrize(
  "name", ["blur", pytest.param("view", marks=pytest.mark.slow)]
)
def test_explicit_shardings_with_a_mesh_that_is_set(name):
  """Also gradients, and images sharded along their height."""
  function, *arrays = CASES[name]
  mesh = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4])
  gradient = jax.jit(jax.grad(lambda x, y: jnp.sum(function(*pair(x, y)) ** 2)))
  is_images = arrays[0] is FLOATS
  pair = (lambda x, y: (x, y)) if is_images else (lambda x, y: (y, x))
  images, other = arrays if is_images else arrays[::-1]
  expected = gradient(images, other)
  places = NamedSharding(mesh, P("a", "b")), NamedSharding(mesh, P("a"))
  with jax.set_mesh(mesh):
    found = gradient(*map(jax.device_put, (images, other), places))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_64_bits_change_nothing(name):
  """Draws and dtypes are the same as with 32 bits."""
  function, *arrays = CASES[name]
  with jax.enable_x64(True):
    found = jax.jit(function)(*arrays)
  assert found.dtype == _expected(name).dtype
  np.testing.assert_allclose(found, _expected(name), rtol=0, atol=1e-6)


def test_float64_images_are_float32_views():
  with jax.enable_x64(True):
    found = jax.jit(CASES["view"][0])(KEYS, IMAGES / 255)
    assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, _expected("view"), atol=0.02)


LEVELS = IMAGES.astype(np.float32)


@pytest.mark.parametrize("images", [LEVELS, -FLOATS, FLOATS * np.nan])
@pytest.mark.parametrize(
  "function",
  [
    lambda x: random_view(jax.random.key(0), x, View(size=8)),
    augment.to_grayscale,
    augment.solarize,
    augment.horizontal_flip,
    lambda x: augment.adjust_brightness(x, 0.5),
    lambda x: augment.gaussian_blur(x, 1.0),
    lambda x: augment.resized_crop(x, BOXES, 8),
    lambda x: augment.normalize(x, (0.5,) * 3, (0.2,) * 3),
  ],
)
def test_images_out_of_range_are_refused(function, images):
  """Refuses known floating images outside [0, 1]; traced ones pass."""
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  placed = jax.device_put(images, NamedSharding(mesh, P("a")))
  for given in (images, jnp.asarray(images), placed):
    with pytest.raises(
      ValueError, match=r"images must be in \[.*divide"
    ) as error:
      function(given)
    assert "\n" not in str(error.value)
  jax.eval_shape(function, images)


@pytest.mark.parametrize(
  ("function", "expected"),
  [
    (lambda: augment.adjust_brightness(IMAGES, -0.1), "factor must be in"),
    (lambda: augment.adjust_contrast(IMAGES, np.nan), "factor must be in"),
    (lambda: augment.adjust_saturation(IMAGES, np.inf), "factor must be in"),
    (lambda: augment.adjust_hue(IMAGES, 0.6), r"in \[-0.5, 0.5\], got 0.6"),
    (lambda: augment.solarize(IMAGES, 128), r"in \[0, 1\], got 128"),
    (lambda: augment.horizontal_flip(IMAGES, 0.5), "booleans, got float32"),
    (lambda: augment.gaussian_blur(IMAGES, -1.0), r"sigma must be in \[0, "),
    (lambda: augment.gaussian_blur(IMAGES, np.nan), r"sigma must be in \[0, "),
    (lambda: augment.gaussian_blur(IMAGES, 17.0), r"max_sigma=16\], got"),
    (
      lambda: augment.gaussian_blur(IMAGES, 1.0, max_sigma=np.inf),
      r"max_sigma must be in \[0, 1000\], got inf",
    ),
    (
      lambda: augment.gaussian_blur(IMAGES, 1e9, max_sigma=1e9),
      r"max_sigma must be in \[0, 1000\]",
    ),
    (lambda: augment.to_grayscale(IMAGES[:, :0]), "must have pixels"),
    (
      lambda: augment.center_crop_resize(IMAGES[:, :, :0], 8, 8),
      "must have pixels",
    ),
    (
      lambda: augment.sample_crop_boxes(KEYS, 8, (0, 24), (0.2, 1), (0.5, 2)),
      r"must have pixels, got shape \(0, 24\)",
    ),
    (
      lambda: augment.normalize(IMAGES, (0.5,) * 3, (0.2, 0, 0.2)),
      "std above 0",
    ),
    (
      lambda: augment.normalize(IMAGES, (np.inf,) * 3, (0.2,) * 3),
      "mean must be finite",
    ),
    (
      lambda: augment.normalize(IMAGES, (0.5,), (0.2,)),
      "one number for each of the 3 channels",
    ),
    (lambda: augment.resized_crop(IMAGES, BOXES, 0), "at least 1 pixel"),
    (lambda: augment.resized_crop(IMAGES, BOXES, 4.0), "one whole number or"),
    (lambda: augment.resized_crop(IMAGES, BOXES, (4,)), "one whole number or"),
    (
      lambda: augment.resized_crop(IMAGES, BOXES, 4, ["bicubic"]),
      r"must be one of bilinear, bicubic, got \['bicubic'\]",
    ),
    (
      lambda: augment.resized_crop(IMAGES, BOXES * [1, 1, 0, 1], 8),
      r"lie in images of 20x24 pixels, got \[1.0, 2.0, 0.0, 9.0\]",
    ),
    (
      lambda: augment.resized_crop(IMAGES, BOXES + [0, 24, 0, 0], 8),
      "lie in images of 20x24",
    ),
    (
      lambda: augment.sample_crop_boxes(
        KEYS, 8, (20, 24), (0.5, 0.2), (0.5, 2)
      ),
      "scale must be ascending",
    ),
    (
      lambda: augment.sample_crop_boxes(KEYS, 8, (20, 24), (0.2, 1), (0, 2)),
      "ratio must be ascending",
    ),
    (lambda: random_view(0, IMAGES, VIEW), r"one key or \[8\] keys, got 0"),
    (
      lambda: random_view(np.zeros(3, np.uint32), IMAGES, VIEW),
      r"one key or \[8\] keys, got \(3,\)",
    ),
    (lambda: random_view(KEYS[:3], IMAGES, VIEW), r"\[8\] keys, got \(3,\)"),
    (lambda: random_view(KEYS, IMAGES, None), "a View or a mapping, got None"),
    (
      lambda: augment.adjust_brightness(IMAGES, "1"),
      "factor must be real numbers, got '1'",
    ),
    (
      lambda: augment.adjust_contrast(IMAGES, 1j),
      "factor must be real numbers, got 1j",
    ),
    (
      lambda: augment.gaussian_blur(IMAGES, None),
      "sigma must be real numbers, got None",
    ),
    (
      lambda: augment.horizontal_flip(IMAGES, "yes"),
      "flip must be real numbers, got 'yes'",
    ),
  ],
)
def test_arguments_out_of_range_are_refused(function, expected):
  with pytest.raises(ValueError, match=expected) as error:
    function()
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["view", "centre", "groups"])
def test_no_images_are_no_images(name):
  function, *arrays = CASES[name]
  found = function(*(x[:0] for x in arrays))
  assert found.shape == (0, 8, 8, 3) and found.dtype == jnp.float32


@pytest.mark.parametrize("ratio", [(1000.0, 1000.0), (1e-3, 1e-3)])
def test_boxes_of_extreme_ratios_have_pixels(ratio):
  """The thinnest boxes are 1 pixel wide, as on the host, and give no NaN."""
  boxes = np.asarray(
    augment.sample_crop_boxes(KEYS, 8, (20, 24), (0.2, 1.0), ratio)
  )
  assert boxes[:, 2:].min() == 1
  found = random_view(KEYS, IMAGES, View(size=8, ratio=ratio))
  assert np.isfinite(found).all()


@pytest.mark.parametrize("level", [0, 255])
def test_contrast_of_large_images_counts_all_pixels(level):
  """The sum of their levels overflows int32."""
  images = np.full((1, 2901, 2904, 3), level, np.uint8)
  images[0, :4] = 255 - level
  found = jax.jit(augment.adjust_contrast)(images, 0.0)
  mean = np.floor(images[..., 0].mean() + 0.5) / 255
  np.testing.assert_allclose(found[0, ::700, ::700], mean, rtol=1e-6)
