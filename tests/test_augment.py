"""Augmentations against PIL's and torchvision's numbers, and their laws."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np
import pytest

from essl_jax import augment
from essl_jax.augment import View, random_view

PLAIN = {
  "size": 16,
  "flip": 0,
  "jitter_probability": 0,
  "grayscale": 0,
  "mean": (0, 0, 0),
  "std": (1, 1, 1),
}
COLORS = {
  "brightness": (0.6, 1.4),
  "contrast": (0.6, 1.4),
  "saturation": (0.6, 0.8, 1.4),
  "hue": (-0.1, 0.07, 0.1),
}
ADJUST = {
  "brightness": augment.adjust_brightness,
  "contrast": augment.adjust_contrast,
  "saturation": augment.adjust_saturation,
  "hue": augment.adjust_hue,
}


@pytest.fixture(scope="module")
def goldens(golden):
  return golden("augmentations")


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).integers(0, 256, (8, 20, 24, 3), np.uint8)


@functools.partial(jax.jit, static_argnums=2)
def draw(key, images, view):
  return random_view(key, images, view)


def assert_levels(actual, expected, tolerance=2.0):
  assert actual.dtype == jnp.float32
  expected = expected.astype(np.float32)
  np.testing.assert_allclose(
    np.asarray(actual) * 255, expected, rtol=0, atol=tolerance + 1e-3
  )


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
  "name",
  [*COLORS],
)
def test_color_matches_pil(goldens, name, jit):
  adjust = jax.jit(ADJUST[name]) if jit else ADJUST[name]
  images = goldens["images"]
  for factor in COLORS[name]:
    expected = goldens[f"{name}_{factor}"]
    assert_levels(adjust(images, factor), expected)
    per_image = np.full(4, factor, np.float32)
    assert_levels(adjust(images / np.float32(255), per_image), expected)


def test_grayscale_and_solarize_match_pil(goldens):
  images = goldens["images"]
  gray = augment.to_grayscale(images)
  assert_levels(gray, np.broadcast_to(goldens["grayscale"], gray.shape), 1)
  assert_levels(augment.solarize(images), goldens["solarize_128"], 0)


def test_solarize_inverts_at_the_threshold():
  images = np.array([127, 128, 129], np.uint8).reshape(1, 1, 1, 3)
  out = np.asarray(augment.solarize(images)) * 255
  np.testing.assert_allclose(out.ravel(), [127, 127, 126], atol=1e-4)


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
def test_resized_crop_reads_nothing_outside_its_box(images, method):
  other = np.zeros_like(images)
  other[:, 3:11, 5:15] = images[:, 3:11, 5:15]
  boxes = np.tile([[3, 5, 8, 10]], (8, 1))
  one = augment.resized_crop(images, boxes, (16, 7), method)
  two = augment.resized_crop(other, boxes, (16, 7), method)
  assert one.shape == (8, 16, 7, 3)
  np.testing.assert_array_equal(one, two)


def test_resized_crop_of_everything_is_the_image(images):
  boxes = np.tile([[0.0, 0.0, 20.0, 24.0]], (8, 1))
  out = augment.resized_crop(images, boxes, (20, 24))
  assert_levels(out, images, 1e-3)


def test_center_crop_resize_matches_torchvision(goldens):
  out = augment.center_crop_resize(goldens["images"], 36, 32)
  assert_levels(out, goldens["probe_resize36_center32_bicubic"])


def test_center_crop_resize_keeps_the_aspect(images):
  out = augment.center_crop_resize(images, 20, 20, "bilinear")
  assert_levels(out, images[:, :, 2:22], 1e-3)
  with pytest.raises(ValueError, match="resize=16.*17"):
    augment.center_crop_resize(images, 16, 17)


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


def test_flip_mirrors_where_told(images):
  mask = np.arange(8) % 3 == 0
  out = np.asarray(augment.horizontal_flip(images, mask)) * 255
  expected = images.copy()
  expected[mask] = images[mask][:, :, ::-1]
  np.testing.assert_allclose(out, expected, atol=1e-3)
  everything = augment.horizontal_flip(images)
  assert_levels(everything, images[:, :, ::-1], 1e-3)


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
  top, left, height, width = boxes.T
  assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > 0).all()
  assert (top + height).max() == shape[0]
  assert (left + width).max() == shape[1]
  name = (
    f"random_resized_crop_{shape[0]}x{shape[1]}_scale{scale[0]}-{scale[1]}_"
  )
  quantiles = goldens[name + "quantiles"]
  area = np.quantile(height * width / np.prod(shape), quantiles)
  np.testing.assert_allclose(area, goldens[name + "area"], rtol=0.02)
  aspect = np.quantile(width / height, quantiles)
  expected = np.exp(goldens[name + "log_aspect"])
  np.testing.assert_allclose(aspect, expected, rtol=0.02)
  mean = goldens[name + "mean_top_left_height_width"]
  np.testing.assert_allclose(boxes.mean(0), mean, rtol=0.02)


@pytest.mark.parametrize(
  ("shape", "expected"),
  [((10, 100), [0, 43, 10, 13]), ((100, 10), [43, 0, 13, 10])],
)
def test_crop_boxes_fall_back_to_the_centre(shape, expected):
  boxes = augment.sample_crop_boxes(
    jax.random.key(0), 5, shape, (0.9, 1), (3 / 4, 4 / 3)
  )
  np.testing.assert_array_equal(boxes, [expected] * 5)


def test_one_key_equals_its_folded_keys(images):
  view = View(**PLAIN | {"flip": 0.5, "grayscale": 0.5, "solarize": 0.5})
  key = jax.random.key(3)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(8))
  out = draw(key, images, view)
  assert out.shape == (8, 16, 16, 3) and out.dtype == jnp.float32
  np.testing.assert_array_equal(out, draw(keys, images, view))
  legacy = jax.random.PRNGKey(3)
  np.testing.assert_array_equal(out, draw(legacy, images, view))
  data = jax.random.key_data(keys)
  np.testing.assert_array_equal(out, draw(data, images, view))
  assert np.abs(out - draw(jax.random.key(4), images, view)).max() > 0.5
  np.testing.assert_array_equal(
    augment.sample_crop_boxes(key, 8, (32, 32), (0.2, 1), (0.5, 2)),
    augment.sample_crop_boxes(keys, 8, (32, 32), (0.2, 1), (0.5, 2)),
  )


def test_views_depend_on_their_own_key_only(images):
  view = View(size=16, blur=0.5, solarize=0.5)
  keys = jax.random.split(jax.random.key(1), 8)
  out = np.asarray(draw(keys, images, view))
  order = np.random.default_rng(1).permutation(8)
  np.testing.assert_array_equal(
    out[order], draw(keys[order], images[order], view)
  )
  part = draw(keys[2:5], images[2:5], view)
  np.testing.assert_allclose(out[2:5], part, atol=1e-5)


@pytest.mark.parametrize("names", ["jitter_probability", "flip", "grayscale"])
def test_probability_zero_and_one(images, names):
  crop = draw(jax.random.key(0), images, View(**PLAIN))
  one = draw(jax.random.key(0), images, View(**PLAIN | {names: 1}))
  if names == "flip":
    np.testing.assert_allclose(one, crop[:, :, ::-1], atol=1e-6)
  elif names == "grayscale":
    expected = augment.to_grayscale(jnp.clip(crop, 0, 1))
    np.testing.assert_allclose(one, expected, atol=1e-6)
  else:
    assert (np.abs(one - crop).max(axis=(1, 2, 3)) > 0.01).all()
    still = View(**PLAIN | {names: 1, "jitter": (0, 0, 0, 0)})
    np.testing.assert_array_equal(draw(jax.random.key(0), images, still), crop)


def test_blur_and_solarize_with_probability_one(images):
  crop = draw(jax.random.key(0), images, View(**PLAIN))
  blurred = draw(
    jax.random.key(0), images, View(**PLAIN | {"blur": 1, "blur_sigma": (1, 1)})
  )
  np.testing.assert_allclose(
    blurred, augment.gaussian_blur(crop, 1.0), atol=1.01 / 255
  )
  inverted = draw(jax.random.key(0), images, View(**PLAIN | {"solarize": 1}))
  np.testing.assert_allclose(inverted, augment.solarize(crop), atol=1e-6)


def test_probabilities_are_met(images):
  many = np.repeat(images[:1], 2000, axis=0)
  crop = draw(jax.random.key(0), many, View(**PLAIN))
  for name in ("flip", "grayscale", "solarize"):
    out = draw(jax.random.key(0), many, View(**PLAIN | {name: 0.3}))
    changed = (np.abs(out - crop).max(axis=(1, 2, 3)) > 1e-4).mean()
    assert abs(changed - 0.3) < 0.05, name


def test_jitter_order_varies_and_is_one_of_all_orders(images):
  strengths = (0.4, 0.4, 0.4, 0.1)
  count = 120
  many = jnp.asarray(np.repeat(images[:1, :6, :6], count, axis=0) / 255.0)
  draws = jax.random.uniform(jax.random.key(0), (8, count))
  out = np.asarray(augment._color_jitter(many, draws, strengths))
  low = np.array([0.6, 0.6, 0.6, -0.1])[:, None]
  span = np.array([0.8, 0.8, 0.8, 0.2])[:, None]
  factors = (low + span * np.asarray(draws[:4])).astype(np.float32)
  operations = [jax.jit(function) for function in ADJUST.values()]
  wanted = [tuple(x) for x in np.argsort(np.asarray(draws[4:]), axis=0).T]
  assert len(set(wanted)) > 20
  spread = []
  for order in itertools.permutations(range(4)):
    result = many
    for i in order:
      result = operations[i](result, factors[i])
    error = np.abs(np.asarray(result) - out).mean(axis=(1, 2, 3))
    same = np.array([order == x for x in wanted])
    assert (error[same] < 2e-3).all(), order
    spread.append(error[~same].mean())
  assert np.mean(spread) > 5e-3


def test_float_and_bfloat16_images_give_the_views_of_uint8(images):
  view, key = View(size=16), jax.random.key(0)
  out = draw(key, images, view)
  floats = draw(key, (images / 255).astype(np.float32), view)
  assert np.abs(out - floats).mean() < 1e-4
  coarse = draw(key, jnp.asarray(images / 255, jnp.bfloat16), view)
  assert coarse.dtype == jnp.float32
  assert np.abs(out - coarse).mean() < 0.05
  for adjust in ADJUST.values():
    assert (
      adjust(jnp.asarray(images, jnp.bfloat16) / 255, 0.1).dtype == "float32"
    )


def test_vmap_over_batches(images):
  view = View(**PLAIN | {"flip": 0.5, "jitter_probability": 0.5})
  keys = jax.random.split(jax.random.key(0), 2)
  batches = images.reshape(2, 4, 20, 24, 3)
  out = jax.jit(jax.vmap(functools.partial(random_view, view=view)))(
    keys, batches
  )
  for i in range(2):
    single = draw(keys[i], batches[i], view)
    assert np.abs(out[i] - single).mean() < 1e-5


@pytest.mark.parametrize("name", [*ADJUST, "blur", "crop"])
def test_gradient_matches_the_slope(images, name):
  image = jnp.asarray(images[:1] / 255 * 0.5 + 0.2, jnp.float32)
  weights = jnp.asarray(
    np.random.default_rng(2).random(image.shape), jnp.float32
  )
  weights = weights[..., ::-1] ** 2

  @jax.jit
  def loss(value):
    if name == "blur":
      out = augment.gaussian_blur(image, value, max_sigma=2.0)
    elif name == "crop":
      box = jnp.stack([value, value, value + 5, value + 6])[None]
      out = augment.resized_crop(image, box, (20, 24))
    else:
      out = ADJUST[name](image, value)
    return jnp.sum(out * weights)

  start = {"hue": 0.05, "crop": 3.3}.get(name, 0.8)
  step = {"hue": 0.03, "crop": 0.005}.get(name, 0.1)
  slope = (loss(start + step) - loss(start - step)) / (2 * step)
  gradient = jax.grad(loss)(start)
  tolerance = 0.3 if name == "hue" else 0.1
  assert abs(gradient - slope) < tolerance * abs(slope)


def test_random_view_has_finite_gradients_to_its_pixels():
  flat = jnp.full((4, 12, 12, 3), 0.5)
  view = View(size=8, blur=1.0, solarize=0.5)
  loss = jax.grad(
    lambda x: jnp.sum(random_view(jax.random.key(0), x, view) ** 2)
  )
  gradient = jax.jit(loss)(flat)
  assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("check", [False, True])
def test_eight_devices_draw_the_views_of_one(images, check):
  view = View(size=16, solarize=0.2, blur=0.5 * check)
  many = np.concatenate([images, images[::-1]])
  key = jax.random.key(5)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(16))
  mesh = Mesh(np.array(jax.devices()[:8]), ("batch",))
  share = PartitionSpec("batch")
  mapped = jax.shard_map(
    lambda keys, images: random_view(keys, images, view),
    mesh=mesh,
    in_specs=(share, share),
    out_specs=share,
    check_vma=check,
  )
  # The blur's last bit depends on how the compiler fuses it.
  np.testing.assert_allclose(
    jax.jit(mapped)(keys, many),
    draw(key, many, view),
    rtol=0,
    atol=1e-6 if view.blur else 0,
  )


def test_view_from_a_mapping(images):
  fields = {"size": 16, "jitter": [0.4, 0.4, 0.4, 0.1], "scale": [0.5, 1]}
  key = jax.random.key(0)
  np.testing.assert_array_equal(
    random_view(key, images, fields), random_view(key, images, View(**fields))
  )
  assert hash(View(**fields)) == hash(View(**fields | {"scale": (0.5, 1)}))


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("size", 0),
    ("size", 16.5),
    ("scale", (0.5, 0.2)),
    ("scale", (0.0, 1.0)),
    ("ratio", 1.0),
    ("interpolation", "nearest"),
    ("flip", 1.5),
    ("jitter", (0.4, 0.4, 0.4)),
    ("jitter", (0.4, 0.4, 0.4, 0.6)),
    ("jitter", (-0.4, 0.4, 0.4, 0.1)),
    ("grayscale", "often"),
    ("blur", float("nan")),
    ("blur_sigma", (2.0, 0.1)),
    ("solarize_threshold", 128),
    ("std", (0.2, 0.0, 0.2)),
  ],
)
def test_view_names_a_wrong_field(field, value):
  with pytest.raises(ValueError, match=f"{field}=.*of a view"):
    View(**{"size": 16} | {field: value})


def test_wrong_inputs_are_named(images):
  key = jax.random.key(0)
  with pytest.raises(ValueError, match=r"\[N, H, W, 3\], got \(20, 24, 3\)"):
    augment.to_grayscale(images[0])
  with pytest.raises(ValueError, match=r"got \(8, 20, 24, 1\)"):
    random_view(key, images[..., :1], View(size=16))
  with pytest.raises(ValueError, match="int32"):
    augment.adjust_hue(images.astype(np.int32), 0.1)
  with pytest.raises(ValueError, match=r"factor .*got \(3,\)"):
    augment.adjust_contrast(images, np.ones(3))
  with pytest.raises(ValueError, match=r"boxes must be \[8, 4\].*got \(4,\)"):
    augment.resized_crop(images, np.array([0, 0, 4, 4]), 8)
  with pytest.raises(ValueError, match="'nearest' is none of bilinear"):
    augment.resized_crop(images, np.ones((8, 4)), 8, "nearest")
  with pytest.raises(ValueError, match=r"one key or \[8\] keys, got \(3,\)"):
    random_view(jax.random.split(key, 3), images, View(size=16))
  with pytest.raises(ValueError, match="sise.*allowed are size"):
    random_view(key, images, {"size": 16, "sise": 3})
