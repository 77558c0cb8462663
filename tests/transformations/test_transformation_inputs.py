"""Transformation groups with sharded, 64-bit and wrong inputs."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from essl_jax import transformations

pytestmark = pytest.mark.quick

IMAGES = np.random.default_rng(0).random((8, 4, 4, 3), np.float32)
KEYS = jax.random.split(jax.random.key(1), 8)
LABELS = np.arange(8) % 2
GROUPS = ("rotation", "grayscale", "any_roll")


def _functions(name):
  """Jits everything a group does as one function."""
  group = transformations.AUGMENTATIONS[name]

  def all_of_them(images, keys, labels):
    found = [
      group.apply(images, labels),
      *group.apply_random(keys, images),
      *group.apply_sometimes(keys, images, 0.7),
    ]
    if isinstance(group, transformations.TransformationGroup):
      found += group.apply_all(images)
    return found

  return jax.jit(all_of_them)


@pytest.mark.parametrize("name", GROUPS)
def test_shardings_and_64_bits_change_nothing(name):
  """Elements and draws are the same as on one device and with 32 bits."""
  expected = _functions(name)(IMAGES, KEYS, LABELS)
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  placed = jax.device_put((IMAGES, KEYS, LABELS), NamedSharding(mesh, P("a")))
  found = _functions(name)(*placed)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  with jax.enable_x64(True):
    found = _functions(name)(IMAGES, KEYS, LABELS.astype(np.int64))
  assert [x.dtype for x in found] == [x.dtype for x in expected]
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", ["rotation", "any_roll"])
def test_one_key_stands_for_all_images(name):
  """As in `random_view`, image i gets the key `fold_in(key, i)`."""
  group = transformations.AUGMENTATIONS[name]
  key = jax.random.key(3)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(8))
  for draw in (group.apply_random, group.apply_sometimes):
    expected = jax.jit(draw)(keys, IMAGES)
    for same in (key, jax.random.key_data(key)):
      found = jax.jit(draw)(same, IMAGES)
      jax.tree.map(np.testing.assert_array_equal, found, expected)
    for wrong in (KEYS[:3], 7, np.zeros((8, 3), np.uint32)):
      with pytest.raises(ValueError, match=r"one key or \[8\] keys, got"):
        draw(wrong, IMAGES)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("label", [-1, 24])
def test_labels_out_of_range(name, label):
  """Known ones are refused; traced ones act as the docstring says."""
  group = transformations.AUGMENTATIONS[name]
  labels = np.full(8, label, np.int32)
  for given in (labels, jnp.asarray(labels)):
    with pytest.raises(ValueError, match=r"labels must be in \[0, "):
      group.apply(IMAGES, given)
  expected = IMAGES
  if name == "any_roll":  # rows and columns shift by their remainder
    expected = np.roll(IMAGES, divmod(label, 4), (1, 2))
  np.testing.assert_array_equal(jax.jit(group.apply)(IMAGES, labels), expected)


def test_known_labels_are_known_under_explicit_sharding():
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  placed = jax.device_put((IMAGES, LABELS + 3), NamedSharding(mesh, P("a")))
  with pytest.raises(ValueError, match=r"labels must be in \[0, 3\]"):
    transformations.FOUR_FOLD_ROTATION.apply(*placed)


@pytest.mark.parametrize("number", [0, 1])
def test_groups_have_two_elements(number):
  """A constant predicts a single class."""
  with pytest.raises(ValueError, match=f"needs two .* got {number}"):
    transformations.TransformationGroup("few", (abs,) * number)


@pytest.mark.parametrize("name", transformations.AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_every_element_keeps_the_dtype(name, dtype):
  group = transformations.AUGMENTATIONS[name]
  shape = (2, 32, 32, 3)  # as wide as the widest blur
  images, labels = jax.ShapeDtypeStruct(shape, dtype), np.arange(2)
  found = jax.eval_shape(lambda x: group.apply(x, labels), images)
  assert (found.shape, found.dtype) == (shape, dtype)


def test_half_precision_is_that_of_float32():
  images = np.float16(IMAGES)
  for name in ("grayscale", "inversion"):
    group = transformations.GROUPS[name]
    found = np.float32(group.apply_all(images)[0])
    expected = group.apply_all(np.float32(images))[0]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_names_and_factors_that_are_none():
  for find in (transformations.find, transformations.find_augmentation):
    for name in (5, None, ["rotation"]):
      with pytest.raises(ValueError, match="must be a string, got"):
        find(name)
  for factors in ((), (5,), (transformations.FOUR_FOLD_ROTATION, "blur")):
    with pytest.raises(ValueError, match="needs one or more Transformation"):
      transformations.product(*factors)


def test_wrong_arguments_are_named():
  group = transformations.FOUR_FOLD_ROTATION
  with pytest.raises(ValueError, match=r"each of 8 rows, got shape \(3,\)"):
    group.apply(IMAGES, np.zeros(3, np.int32))
  with pytest.raises(ValueError, match="integers, got float"):
    group.apply(IMAGES, np.zeros(8, np.float32))
  for wrong in (-0.1, 1.5, np.nan):
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\]"):
      group.apply_sometimes(KEYS, IMAGES, wrong)
  with pytest.raises(ValueError, match=r"square, .* got shape \(2,\)"):
    group.apply_all([1.0, 2.0])
  negative = transformations.GROUPS["inversion"]
  with pytest.raises(ValueError, match=r"inverted must be .*divide 0 to 255"):
    negative.apply_all(IMAGES * 255)
  with pytest.raises(ValueError, match="floating point, got int32"):
    negative.apply_all((IMAGES * 255).astype(np.int32))
  with pytest.raises(ValueError, match="floating point, got int32"):
    transformations.GROUPS["grayscale"].apply_all(np.int32(IMAGES))


@pytest.mark.parametrize(
  ("dtype", "label", "side"),
  [(np.uint8, 200, 300), (np.uint8, 255, 256), (np.int8, 100, 200)],
)
def test_narrow_labels_shift_as_others(dtype, label, side):
  """Their dtype cannot hold the side of the image."""
  rows = np.arange(side, dtype=np.float32)[None, None, :, None] / side
  images = np.broadcast_to(rows, (1, side, side, 1))
  found = transformations.ANY_ROLL.apply(images, np.array([label], dtype))
  np.testing.assert_array_equal(found, np.roll(images, label, axis=2))
