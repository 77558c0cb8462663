"""Random views: properties, gradients, devices and errors."""

import functools

from augment_helpers import ADJUST, IMAGES
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np
import pytest

from essl_jax import augment
from essl_jax.augment import View, random_view

PLAIN = {
  "size": 8,
  "flip": 0,
  "jitter_probability": 0,
  "grayscale": 0,
  "mean": (0, 0, 0),
  "std": (1, 1, 1),
}
JITTERED = View(size=8, solarize=0.2)
BLURRED = View(size=8, blur=0.5, solarize=0.5)
KEYS = jax.random.split(jax.random.key(1), 8)


@functools.partial(jax.jit, static_argnums=2)
def draw(key, images, view):
  return random_view(key, images, view)


def test_one_key_equals_its_folded_keys():
  random = {"flip": 0.5, "grayscale": 0.5, "solarize": 0.5}
  view = View(**PLAIN | random | {"size": 16})
  key = jax.random.key(3)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(8))
  out = draw(key, IMAGES, view)
  assert out.shape == (8, 16, 16, 3) and out.dtype == jnp.float32
  np.testing.assert_array_equal(out, draw(keys, IMAGES, view))
  legacy = jax.random.PRNGKey(3)
  np.testing.assert_array_equal(out, draw(legacy, IMAGES, view))
  data = jax.random.key_data(keys)
  np.testing.assert_array_equal(out, draw(data, IMAGES, view))
  assert np.abs(out - draw(jax.random.key(4), IMAGES, view)).max() > 0.5
  np.testing.assert_array_equal(
    augment.sample_crop_boxes(key, 8, (32, 32), (0.2, 1), (0.5, 2)),
    augment.sample_crop_boxes(keys, 8, (32, 32), (0.2, 1), (0.5, 2)),
  )


CELL = {"size": 8, "scale": (1, 1), "ratio": (1, 1), "flip": 0}
CELL |= {"jitter_probability": 0, "grayscale": 0, "mean": (0.5,), "std": (2,)}


def test_groups_draw_an_element_of_each_for_every_image():
  """With one channel and no crop, a view is a normalised group element."""
  random = np.random.default_rng(0)
  cells = random.random((64, 8, 8, 1), np.float32)
  keys = jax.random.split(jax.random.key(5), 64)
  plain = np.asarray(draw(keys, cells, View(**CELL)))
  np.testing.assert_array_equal(plain, (cells - 0.5) / 2)
  view = View(**CELL, groups=("flips", "rotation"))
  out = np.asarray(draw(keys, cells, view))
  found = []
  for cell, image in zip(plain, out, strict=True):
    turned = [np.rot90(x, k) for x in (cell, cell[::-1]) for k in range(4)]
    (hit,) = (k for k, x in enumerate(turned) if np.array_equal(x, image))
    found.append(hit)
  assert set(found) == set(range(8)), "all of the square's symmetries"
  order = random.permutation(64)
  again = draw(keys[order], cells[order], view)
  np.testing.assert_array_equal(out[order], again)


def test_groups_leave_the_other_draws_alone():
  view = View(**PLAIN | {"flip": 0.5})
  out = np.asarray(draw(KEYS, IMAGES, view))
  halved = View(**PLAIN | {"flip": 0.5, "groups": ("half_translation",)})
  shifted = np.asarray(draw(KEYS, IMAGES, halved))
  for one, other in zip(out, shifted, strict=True):
    options = [np.roll(one, s, (0, 1)) for s in np.ndindex(5, 5)]
    assert any(np.array_equal(x, other) for x in options)
  assert np.any(out != shifted)


@pytest.mark.parametrize(
  ("fields", "channels", "expected"),
  [
    ({"groups": ("shear",)}, 1, "group 'shear'; there are: rotation, "),
    ({"mean": (0.5, 0.5)}, 1, "mean=.* must be 1 or 3 real"),
    ({"mean": (0.5,) * 3}, 1, "must have one number for each of the 1 channel"),
    ({}, 3, "must have one number for each of the 3 channel"),
    ({"grayscale": 0.1}, 1, "grayscale=0.1 .* change colours, .* 1 channel"),
    ({"jitter_probability": 1.0}, 1, "jitter=.* change colours"),
  ],
)
def test_channels_and_groups_that_do_not_fit(fields, channels, expected):
  with pytest.raises(ValueError, match=expected) as error:
    draw(KEYS, np.zeros((8, 8, 8, channels), np.float32), View(**CELL | fields))
  assert "\n" not in str(error.value)


def test_views_depend_on_their_own_key_only():
  view = BLURRED
  keys = KEYS
  out = np.asarray(draw(keys, IMAGES, view))
  order = np.random.default_rng(1).permutation(8)
  np.testing.assert_array_equal(
    out[order], draw(keys[order], IMAGES[order], view)
  )
  part = draw(keys[2:5], IMAGES[2:5], view)
  np.testing.assert_allclose(out[2:5], part, atol=1e-5)


@pytest.mark.parametrize("names", ["jitter_probability", "flip", "grayscale"])
def test_probability_zero_and_one(names):
  crop = draw(jax.random.key(0), IMAGES, View(**PLAIN))
  one = draw(jax.random.key(0), IMAGES, View(**PLAIN | {names: 1}))
  if names == "flip":
    np.testing.assert_allclose(one, crop[:, :, ::-1], atol=1e-6)
  elif names == "grayscale":
    expected = augment.to_grayscale(jnp.clip(crop, 0, 1))
    np.testing.assert_allclose(one, expected, atol=1e-6)
  else:
    assert (np.abs(one - crop).max(axis=(1, 2, 3)) > 0.01).all()
    still = View(**PLAIN | {names: 1, "jitter": (0, 0, 0, 0)})
    np.testing.assert_array_equal(draw(jax.random.key(0), IMAGES, still), crop)


def test_blur_and_solarize_with_probability_one():
  crop = draw(jax.random.key(0), IMAGES, View(**PLAIN))
  blurred = draw(
    jax.random.key(0), IMAGES, View(**PLAIN | {"blur": 1, "blur_sigma": (1, 1)})
  )
  np.testing.assert_allclose(
    blurred, augment.gaussian_blur(crop, 1.0), atol=1.01 / 255
  )
  inverted = draw(jax.random.key(0), IMAGES, View(**PLAIN | {"solarize": 1}))
  np.testing.assert_allclose(inverted, augment.solarize(crop), atol=1e-6)


def test_probabilities_are_met():
  many = np.repeat(IMAGES[:1, :8, :8], 2000, axis=0)
  crop = draw(jax.random.key(0), many, View(**PLAIN))
  for name in ("flip", "grayscale", "solarize"):
    out = draw(jax.random.key(0), many, View(**PLAIN | {name: 0.3}))
    changed = (np.abs(out - crop).max(axis=(1, 2, 3)) > 1e-4).mean()
    assert abs(changed - 0.3) < 0.05, name


def test_float_and_bfloat16_images_give_the_views_of_uint8():
  view, key = JITTERED, KEYS
  out = draw(key, IMAGES, view)
  floats = draw(key, (IMAGES / 255).astype(np.float32), view)
  assert np.abs(out - floats).mean() < 1e-4
  coarse = draw(key, jnp.asarray(IMAGES / 255, jnp.bfloat16), view)
  assert coarse.dtype == jnp.float32
  assert np.abs(out - coarse).mean() < 0.05
  for adjust in ADJUST.values():
    assert (
      adjust(jnp.asarray(IMAGES, jnp.bfloat16) / 255, 0.1).dtype == "float32"
    )


def test_vmap_over_batches():
  keys = jax.random.split(jax.random.key(0), 2)
  batches = IMAGES.reshape(2, 4, *IMAGES.shape[1:])
  out = jax.jit(jax.vmap(functools.partial(random_view, view=JITTERED)))(
    keys, batches
  )
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  folded = jnp.concatenate([fold(key, jnp.arange(4)) for key in keys])
  single = draw(folded, IMAGES, JITTERED).reshape(out.shape)
  for i in range(2):
    assert np.abs(out[i] - single[i]).mean() < 1e-5


@pytest.mark.parametrize("name", [*ADJUST, "blur", "crop"])
def test_gradient_matches_the_slope(name):
  image = jnp.asarray(IMAGES[:1] / 255 * 0.5 + 0.2, jnp.float32)
  weights = jnp.asarray(
    np.random.default_rng(2).random(image.shape), jnp.float32
  )
  weights = weights[..., ::-1] ** 2

  @jax.jit
  @jax.value_and_grad
  def loss(value):
    if name == "blur":
      out = augment.gaussian_blur(image, value, max_sigma=1.0)
    elif name == "crop":
      box = jnp.stack([value, value, value + 5, value + 6])[None]
      out = augment.resized_crop(image, box, image.shape[1:3])
    else:
      out = ADJUST[name](image, value)
    return jnp.sum(out * weights)

  start = {"hue": 0.05, "crop": 3.3}.get(name, 0.8)
  step = {"hue": 0.03, "crop": 0.005}.get(name, 0.1)
  slope = (loss(start + step)[0] - loss(start - step)[0]) / (2 * step)
  _, gradient = loss(start)
  tolerance = 0.3 if name == "hue" else 0.1
  assert abs(gradient - slope) < tolerance * abs(slope)


def test_random_view_has_finite_gradients_to_its_pixels():
  flat = jnp.full((4, 8, 8, 3), 0.5)
  view = View(size=8, blur=1.0, blur_sigma=(0.1, 1.0), solarize=0.5)
  loss = jax.grad(
    lambda x: jnp.sum(random_view(jax.random.key(0), x, view) ** 2)
  )
  gradient = jax.jit(loss)(flat)
  assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("check", [False, True])
def test_eight_devices_draw_the_views_of_one(check):
  view = BLURRED if check else JITTERED
  mesh = Mesh(np.array(jax.devices()[:8]), ("batch",))
  share = PartitionSpec("batch")
  mapped = jax.shard_map(
    lambda keys, images: random_view(keys, images, view),
    mesh=mesh,
    in_specs=(share, share),
    out_specs=share,
    check_vma=check,
  )
  expected = np.asarray(draw(KEYS, IMAGES, view))
  # The last bits depend on how the compiler fuses each of the two programs;
  # another draw would change pixels by more than 0.01.
  rounding = np.spacing(np.abs(expected).max())
  assert rounding < 3e-7
  np.testing.assert_allclose(
    jax.jit(mapped)(KEYS, IMAGES), expected, rtol=0, atol=8 * rounding
  )


def test_view_of_lists_is_that_of_tuples():
  fields = {"size": 8, "jitter": [0.4, 0.4, 0.4, 0.1], "scale": [0.5, 1]}
  view = View(8, jitter=(0.4, 0.4, 0.4, 0.1), scale=(0.5, 1))
  assert View(**fields) == view
  assert hash(View(**fields)) == hash(view)


def test_view_from_a_mapping():
  fields = {"size": 8, "jitter": [0.4, 0.4, 0.4, 0.1], "scale": [0.5, 1]}
  key = jax.random.key(0)
  np.testing.assert_array_equal(
    jax.jit(functools.partial(random_view, view=fields))(key, IMAGES),
    draw(key, IMAGES, View(**fields)),
  )


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("size", 0),
    ("size", 16.5),
    ("scale", (0.5, 0.2)),
    ("scale", (0.0, 1.0)),
    ("ratio", 1.0),
    ("interpolation", "nearest"),
    ("interpolation", ["bilinear"]),
    ("groups", (5,)),
    ("groups", ([],)),
    ("groups", None),
    ("groups", "rotation"),
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


def test_wrong_inputs_are_named():
  key = jax.random.key(0)
  with pytest.raises(
    ValueError, match=r"\[N, H, W, 3 or 1\], got \(20, 24, 3\)"
  ):
    augment.to_grayscale(IMAGES[0])
  with pytest.raises(ValueError, match=r"colours .*got \(8, 20, 24, 1\)"):
    augment.to_grayscale(IMAGES[..., :1])
  with pytest.raises(ValueError, match=r"of the 1 channel"):
    random_view(key, IMAGES[..., :1], View(size=16))
  with pytest.raises(ValueError, match="int32"):
    augment.adjust_hue(IMAGES.astype(np.int32), 0.1)
  with pytest.raises(ValueError, match=r"factor .*got \(3,\)"):
    augment.adjust_contrast(IMAGES, np.ones(3))
  with pytest.raises(ValueError, match=r"boxes must be \[8, 4\].*got \(4,\)"):
    augment.resized_crop(IMAGES, np.array([0, 0, 4, 4]), 8)
  with pytest.raises(ValueError, match="one of bilinear.*got 'nearest'"):
    augment.resized_crop(IMAGES, np.ones((8, 4)), 8, "nearest")
  with pytest.raises(ValueError, match=r"one key or \[8\] keys, got \(3,\)"):
    random_view(jax.random.split(key, 3), IMAGES, View(size=16))
  with pytest.raises(ValueError, match="sise.*allowed are size"):
    random_view(key, IMAGES, {"size": 16, "sise": 3})
  with pytest.raises(ValueError, match="needs `size`"):
    random_view(key, IMAGES, {"flip": 1.0})
