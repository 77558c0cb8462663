"""Transformation groups: labels, closure, inverses, golden rotation."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax import transformations


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).random((3, 6, 6, 2), np.float32)


def test_golden_four_fold_rotation(golden):
  file = golden("losses")
  rotated, labels = jax.jit(transformations.four_fold_rotation)(
    file["rotation_images"]
  )
  np.testing.assert_array_equal(rotated, file["rotation_rotated"])
  np.testing.assert_array_equal(labels, file["rotation_labels"])


@pytest.mark.parametrize(
  ("name", "prefix"),
  [
    ("rotation", "rotation"),
    ("flips", "flip"),
    ("half_translation", "translation"),
  ],
)
def test_golden_unit_cells(golden, name, prefix):
  file = golden("photonics")
  group = transformations.GROUPS[name]
  cells, labels = jax.jit(group.apply_all)(file["cells"][..., None])
  np.testing.assert_array_equal(cells[..., 0], file[f"{prefix}_cells"])
  np.testing.assert_array_equal(labels, file[f"{prefix}_labels"])


@pytest.mark.parametrize("name", transformations.GROUPS)
def test_elements_form_a_group(name, images):
  group = transformations.GROUPS[name]
  assert group.name == name
  transformed = [np.asarray(f(images)) for f in group.elements]
  np.testing.assert_array_equal(transformed[0], images)
  for i, element in enumerate(transformed):
    for other in transformed[i + 1 :]:
      assert not np.array_equal(element, other), "elements must differ"
  for f in group.elements:
    products = [np.asarray(f(x)) for x in transformed]
    hits = [sum(np.array_equal(p, x) for x in transformed) for p in products]
    assert hits == [1] * group.num_classes, "closed under composition"
    assert any(np.array_equal(p, images) for p in products), "has an inverse"


@pytest.mark.parametrize("name", transformations.GROUPS)
def test_apply_all_labels_the_elements(name, images):
  group = transformations.GROUPS[name]
  transformed, labels = jax.jit(group.apply_all)(images)
  assert labels.dtype == jnp.int32
  for k, element in enumerate(group.elements):
    np.testing.assert_array_equal(transformed[labels == k], element(images))


@pytest.mark.parametrize("name", transformations.GROUPS)
def test_apply_random_draws_every_element(name):
  group = transformations.GROUPS[name]
  images = np.random.default_rng(1).random((400, 4, 4, 1), np.float32)
  keys = jax.random.split(jax.random.key(0), 400)
  transformed, labels = jax.jit(group.apply_random)(keys, images)
  counts = np.bincount(labels, minlength=group.num_classes)
  expected = 400 / group.num_classes
  assert np.all(np.abs(counts - expected) < 4 * np.sqrt(expected))
  for k, element in enumerate(group.elements):
    chosen = np.asarray(labels) == k
    np.testing.assert_array_equal(transformed[chosen], element(images)[chosen])


def test_rotation_is_counter_clockwise():
  image = jnp.zeros((1, 4, 4, 1)).at[0, 0, 3, 0].set(1)  # top right
  rotated, _ = transformations.four_fold_rotation(image)
  assert rotated[1, 0, 0, 0] == 1  # top left after a quarter turn


def test_any_roll_draws_every_shift_of_an_image():
  roll = transformations.AUGMENTATIONS["any_roll"]
  images = np.random.default_rng(1).random((300, 4, 4, 2), np.float32)
  keys = jax.random.split(jax.random.key(0), 300)
  shifted, labels = jax.jit(roll.apply_random)(keys, images)
  assert np.bincount(labels, minlength=16).min() > 4 and labels.max() < 16
  for image, result, label in zip(images, shifted, labels, strict=True):
    expected = np.roll(image, divmod(int(label), 4), (0, 1))
    np.testing.assert_array_equal(result, expected)
  alone, _ = roll.apply_random(keys[7:9], images[7:9])
  np.testing.assert_array_equal(alone, shifted[7:9])


def test_half_of_an_odd_side_is_refused():
  group = transformations.GROUPS["half_translation"]
  with pytest.raises(ValueError, match=r"even sides.*\(2, 5, 5, 1\)"):
    group.apply_all(np.zeros((2, 5, 5, 1)))


def test_dtypes_and_wrong_shapes():
  images = np.zeros((2, 4, 4, 3), np.uint8)
  assert transformations.four_fold_rotation(images)[0].dtype == np.uint8
  with pytest.raises(ValueError, match=r"square.*\(2, 4, 6, 3\)"):
    transformations.four_fold_rotation(np.zeros((2, 4, 6, 3)))


def test_examples_in_docstrings():
  result = doctest.testmod(transformations)
  assert result.attempted >= 2
  assert result.failed == 0
