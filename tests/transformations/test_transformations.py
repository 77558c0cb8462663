"""Transformation groups: labels, closure, inverses, golden rotation."""

import doctest
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax import augment, transformations

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).random((3, 6, 6, 3), np.float32)


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


# Their elements have no inverse, so they are groups in name only.
NO_INVERSE = ("grayscale", "blur")
PRODUCTS = ("rotation*horizontal_flip", "half_translation*inversion")
NAMES = (*transformations.GROUPS, *PRODUCTS)


@functools.cache
def _elements(name):
  """Applies all elements to the same images in one program."""
  group = transformations.find(name)
  return jax.jit(lambda images: [f(images) for f in group.elements])


def _equal(a, b):
  return np.abs(np.asarray(a) - np.asarray(b)).max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_elements_differ_and_begin_with_the_identity(name, images):
  group = transformations.find(name)
  assert group.name == name
  assert transformations.find(name) is group
  group.check_elements()
  transformed = [np.asarray(x) for x in _elements(name)(images)]
  np.testing.assert_array_equal(transformed[0], images)
  for i, element in enumerate(transformed):
    assert not any(_equal(element, x) for x in transformed[i + 1 :])


@pytest.mark.parametrize("name", [x for x in NAMES if x not in NO_INVERSE])
def test_elements_form_a_group(name, images):
  group = transformations.find(name)
  transformed = np.stack(_elements(name)(images))
  flat = transformed.reshape(-1, *images.shape[1:])
  for products in _elements(name)(flat):
    products = np.asarray(products).reshape(transformed.shape)
    hits = [sum(_equal(p, x) for x in transformed) for p in products]
    assert hits == [1] * group.num_classes, "closed under composition"
    assert any(_equal(p, images) for p in products), "has an inverse"


@pytest.mark.parametrize("name", [x for x in NAMES if x not in NO_INVERSE])
def test_differences_lead_from_one_element_to_another(name, images):
  group = transformations.find(name)
  table = group.differences
  np.testing.assert_array_equal(table[0], np.arange(group.num_classes))
  random = np.random.default_rng(3)
  shown = _elements(name)(images)
  for a, b in random.integers(0, group.num_classes, (6, 2)):
    assert _equal(_elements(name)(shown[a])[table[a, b]], shown[b])


@pytest.mark.parametrize("name", NO_INVERSE)
def test_what_cannot_be_undone_has_no_differences(name):
  with pytest.raises(ValueError, match=f"{name} is not a group"):
    _ = transformations.GROUPS[name].differences


def test_numbers_of_classes():
  expected = {
    "rotation": 4,
    "horizontal_flip": 2,
    "vertical_flip": 2,
    "flips": 4,
    "half_translation": 4,
    "half_swap": 2,
    "vertical_half_swap": 2,
    "jigsaw": 24,
    "grayscale": 2,
    "inversion": 2,
    "blur": 4,
    "rotation*horizontal_flip": 8,
    "half_translation*inversion": 8,
  }
  found = {name: transformations.find(name).num_classes for name in NAMES}
  assert found == expected


def test_label_of_a_product_names_both_elements(images):
  rotation, flip = (
    transformations.GROUPS[name] for name in ("rotation", "horizontal_flip")
  )
  both = transformations.product(rotation, flip)
  for label, element in enumerate(both.elements):
    turned = rotation.elements[label // 2](images)
    np.testing.assert_array_equal(
      element(images), flip.elements[label % 2](turned)
    )


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("shear", "unknown transformation group 'shear'; there are: rotation, "),
    ("any_roll", "any_roll has too many elements to predict"),
    ("rotation*shear", r"group 'shear' in 'rotation\*shear'"),
    ("rotation*jigsaw*flips", "has 384 elements, more than 128"),
    ("", "unknown transformation group ''"),
  ],
)
def test_groups_that_cannot_be_had(name, expected):
  with pytest.raises(ValueError, match=expected):
    transformations.find(name)


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("rotation*flips", r"product rotation\*flips has elements that do "),
    ("flips*flips", "has elements that do the same .labels 1 and 4"),
  ],
)
def test_products_with_equal_elements(name, expected):
  with pytest.raises(ValueError, match=expected):
    transformations.find(name).check_elements()


def test_jigsaw_permutes_the_quadrants():
  numbers = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)
  image = numbers.repeat(2, axis=1).repeat(2, axis=2)
  group = transformations.GROUPS["jigsaw"]
  shown = np.asarray(jax.jit(group.apply_all)(image)[0])[:, ::2, ::2, 0]
  expected = list(itertools.permutations(range(4)))
  assert [tuple(map(int, x.ravel())) for x in shown] == expected


def test_colours_agree_with_the_augmentations(images):
  gray = transformations.GROUPS["grayscale"].elements[1](images)
  np.testing.assert_allclose(gray, augment.to_grayscale(images), atol=1e-6)
  negative = transformations.GROUPS["inversion"].elements[1](images)
  np.testing.assert_allclose(negative, augment.solarize(images, 0.0), atol=1e-6)
  levels = np.round(images * 255).astype(np.uint8)
  for name in ("grayscale", "inversion", "blur"):
    exact = _elements(name)(levels / np.float32(255))
    for found, wanted in zip(_elements(name)(levels), exact, strict=True):
      np.testing.assert_allclose(found, np.asarray(wanted) * 255, atol=0.501)
      assert found.dtype == np.uint8


def test_blurs_are_gaussian_and_stronger_and_stronger():
  impulse = np.zeros((1, 31, 31, 1), np.float32)
  impulse[0, 15, 15] = 1
  blur = jax.jit(transformations.GROUPS["blur"].apply_all)
  blurred = np.asarray(blur(impulse)[0])[..., 0]
  for size, image in zip((5, 9, 15), blurred[1:], strict=True):
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    x = np.arange(31) - 15
    kernel = np.where(abs(x) <= size // 2, np.exp(-0.5 * (x / sigma) ** 2), 0)
    kernel /= kernel.sum()
    np.testing.assert_allclose(image, np.outer(kernel, kernel), atol=1e-6)
  # A reflected border keeps a constant image constant.
  flat = np.full((1, 8, 8, 1), 0.3, np.float32)
  assert _equal(blur(flat)[0], 0.3)


@pytest.mark.parametrize("name", NAMES)
def test_apply_all_labels_the_elements(name, images):
  group = transformations.find(name)
  transformed, labels = jax.jit(group.apply_all)(images)
  assert labels.dtype == jnp.int32
  transformed, labels = np.asarray(transformed), np.asarray(labels)
  assert len(transformed) == group.num_classes * len(images)
  for k, expected in enumerate(_elements(name)(images)):
    np.testing.assert_allclose(transformed[labels == k], expected, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_random_elements_are_drawn_as_often_as_they_should_be(name):
  group = transformations.find(name)
  count = group.num_classes
  images = np.random.default_rng(1).random((600, 4, 4, 3), np.float32)
  keys = jax.random.split(jax.random.key(0), 600)
  evenly = np.full(count, 600 / count)
  sometimes = np.array([450] + [150 / (count - 1)] * (count - 1))
  shown = np.stack(_elements(name)(images))
  for draw, expected in (
    (group.apply_random, evenly),
    (functools.partial(group.apply_sometimes, probability=0.25), sometimes),
  ):
    transformed, labels = jax.jit(draw)(keys, images)
    counts = np.bincount(labels, minlength=count)
    assert np.all(np.abs(counts - expected) < 4.5 * np.sqrt(expected))
    expected = shown[np.asarray(labels), np.arange(600)]
    np.testing.assert_allclose(transformed, expected, atol=1e-6)


def test_rotation_is_counter_clockwise():
  image = jnp.zeros((1, 4, 4, 1)).at[0, 0, 3, 0].set(1)  # top right
  rotated, _ = transformations.four_fold_rotation(image)
  assert rotated[1, 0, 0, 0] == 1  # top left after a quarter turn


def test_any_roll_draws_every_shift_of_an_image():
  roll = transformations.AUGMENTATIONS["any_roll"]
  images = np.random.default_rng(1).random((300, 4, 4, 2), np.float32)
  keys = jax.random.split(jax.random.key(0), 300)
  draw = jax.jit(roll.apply_random)
  shifted, labels = map(np.asarray, draw(keys, images))
  assert np.bincount(labels, minlength=16).min() > 4 and labels.max() < 16
  for image, result, label in zip(images, shifted, labels, strict=True):
    expected = np.roll(image, divmod(int(label), 4), (0, 1))
    np.testing.assert_array_equal(result, expected)
  alone, _ = draw(keys[7:9], images[7:9])
  np.testing.assert_array_equal(alone, shifted[7:9])


@pytest.mark.parametrize("name", ["half_translation", "half_swap", "jigsaw"])
def test_half_of_an_odd_side_is_refused(name):
  group = transformations.GROUPS[name]
  with pytest.raises(ValueError, match=r"even sides.*\(2, 5, 5, 1\)"):
    group.apply_all(np.zeros((2, 5, 5, 1)))


def test_grayscale_of_one_channel_is_refused():
  with pytest.raises(ValueError, match=r"three channels.*\(2, 4, 4, 1\)"):
    transformations.GROUPS["grayscale"].apply_all(np.zeros((2, 4, 4, 1)))


def test_dtypes_and_wrong_shapes():
  images = np.zeros((2, 4, 4, 3), np.uint8)
  assert transformations.four_fold_rotation(images)[0].dtype == np.uint8
  with pytest.raises(ValueError, match=r"square.*\(2, 4, 6, 3\)"):
    transformations.four_fold_rotation(np.zeros((2, 4, 6, 3)))


def test_examples_in_docstrings():
  result = doctest.testmod(transformations)
  assert result.attempted >= 2
  assert result.failed == 0
