"""Parameters that random views return, and views with given parameters."""

import dataclasses
import functools
import pathlib

from augment_helpers import ADJUST, IMAGES
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest
import xla_flags

from essl_jax import augment, transformations
from essl_jax import config as config_lib
from essl_jax.augment import View, apply_view, draw_parameters, random_view
from essl_jax.config import flags

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
# Views are compared bit for bit.
jit = functools.partial(jax.jit, compiler_options=xla_flags.EMITTERS)
ALL = View(
  size=8,
  grayscale=0.3,
  blur=0.5,
  blur_sigma=(0.1, 1.0),
  solarize=0.5,
  groups=("rotation",),
)
EXTRA = "rotation"
KEYS = jax.random.split(jax.random.key(1), 8)
NOTHING = {
  "flip": False,
  "jittered": False,
  "brightness": 1,
  "contrast": 1,
  "saturation": 1,
  "hue": 0,
  "jitter_order": -1,
  "grayscale": False,
  "blurred": False,
  "sigma": 0,
  "solarized": False,
  "threshold": 1,
}


@functools.partial(jit, static_argnums=2, static_argnames=("crop", "extra"))
def draw(key, images, view, **options):
  return random_view(key, images, view, return_parameters=True, **options)


@functools.partial(jit, static_argnums=2, static_argnames=("crop", "extra"))
def plain(key, images, view, **options):
  return random_view(key, images, view, **options)


@functools.partial(jit, static_argnums=2, static_argnames=("crop", "extra"))
def again(images, parameters, view, **options):
  return apply_view(images, parameters, view, **options)


@functools.partial(jit, static_argnums=(1, 2, 3), static_argnames="extra")
def parameters_of(key, count, shape, view, **options):
  return draw_parameters(key, count, shape, view, **options)


@pytest.fixture(scope="module")
def drawn():
  """Returns views of eight images, and their parameters."""
  return draw(KEYS, IMAGES, ALL, extra=EXTRA)


def test_parameters_are_as_documented(drawn):
  _, found = drawn
  kinds = {"crop": np.int32, "image_size": np.int32, "jitter_order": np.int32}
  for name, nothing in NOTHING.items():
    value = np.asarray(getattr(found, name))
    kind = np.bool_ if isinstance(nothing, bool) else np.float32
    assert value.dtype == kinds.get(name, kind), name
    assert value.shape == ((8, 4) if name == "jitter_order" else (8,)), name
  assert (found.image_size == np.array([[20, 24]])).all()
  crop = np.asarray(found.crop)
  assert (crop[:, :2] >= 0).all() and (crop[:, 2:] > 0).all()
  assert (crop[:, :2] + crop[:, 2:] <= (20, 24)).all()
  np.testing.assert_allclose(
    found.relative_crop, crop / np.array([20, 24, 20, 24]), atol=1e-7
  )
  names = {"rotation", "rotation 2"}
  assert {k: x.dtype for k, x in found.elements.items()} == dict.fromkeys(
    names, np.int32
  )


def test_what_is_not_applied_has_the_values_for_it():
  """Checks single images, and a view that never applies the operation."""
  found = parameters_of(jax.random.key(0), 200, (20, 24, 3), ALL)
  gates = {"sigma": "blurred", "threshold": "solarized"}
  for name, nothing in NOTHING.items():
    value = np.asarray(getattr(found, name))
    gate = np.asarray(getattr(found, gates.get(name, "jittered")))
    if not isinstance(nothing, bool):
      assert 0 < gate.sum() < 200
      assert (value[~gate] == nothing).all(), name
      assert (value[gate] != nothing).mean() > 0.9, name
    else:
      assert 0 < value.sum() < 200, name
  order = np.sort(found.jitter_order[np.asarray(found.jittered)], axis=1)
  assert (order == np.arange(4)).all()
  never = View(
    size=8,
    scale=(1, 1),
    ratio=(1, 1),
    flip=0,
    jitter_probability=0,
    grayscale=0,
  )
  found = parameters_of(jax.random.key(0), 5, (8, 8), never)
  for name, nothing in NOTHING.items():
    assert (getattr(found, name) == nothing).all(), name
  assert (found.crop == np.array([[0, 0, 8, 8]])).all() and not found.elements


def test_parts_of_strength_zero_have_no_place_in_the_order():
  view = View(size=8, jitter=(0.4, 0.0, 0.4, 0.0), jitter_probability=1)
  found = parameters_of(jax.random.key(0), 50, (8, 8), view)
  assert (found.contrast == 1).all() and (found.hue == 0).all()
  order = np.asarray(found.jitter_order)
  assert (order[:, (1, 3)] == -1).all()
  assert (np.sort(order[:, (0, 2)], axis=1) == [0, 1]).all()
  still = dataclasses.replace(view, jitter=(0, 0, 0, 0))
  assert not parameters_of(KEYS[0], 9, (8, 8), still).jittered.any()


JITTERS = {name: jax.jit(adjust) for name, adjust in ADJUST.items()}


def _one_by_one(images, parameters, view, extra):
  """Makes views by calling the package's operations one after the other."""
  where = lambda flags, changed, x: jnp.where(
    flags[:, None, None, None], changed, x
  )
  x = augment.resized_crop(images, parameters.crop, view.size)
  x = augment.horizontal_flip(x, parameters.flip)
  for turn in range(4):
    before = x
    for place, (name, adjust) in enumerate(JITTERS.items()):
      now = parameters.jitter_order[:, place] == turn
      x = where(now, adjust(before, getattr(parameters, name)), x)
  x = where(parameters.grayscale, augment.to_grayscale(x), x)
  blurred = jax.jit(augment.gaussian_blur)(x, parameters.sigma)
  x = where(parameters.blurred, blurred, x)
  x = where(parameters.solarized, augment.solarize(x, parameters.threshold), x)
  names = ("rotation", "rotation 2")
  for name, group in zip(names, (*view.groups, extra), strict=True):
    found = transformations.find_augmentation(group)
    x = found.apply(x, parameters.elements[name])
  return augment.normalize(x, view.mean, view.std)


def test_parameters_say_what_was_done(drawn):
  """Compares with single operations; rounding may differ by one grey level."""
  views, parameters = drawn
  for name in ("flip", "jittered", "grayscale", "blurred", "solarized"):
    flags = getattr(parameters, name)
    assert flags.any() and not flags.all(), name
  expected = _one_by_one(IMAGES, parameters, ALL, EXTRA)
  assert np.abs(views - expected).max() < 1.01 / 255 / min(ALL.std)


def test_given_parameters_make_the_same_views(drawn):
  views, parameters = drawn
  np.testing.assert_array_equal(views, plain(KEYS, IMAGES, ALL, extra=EXTRA))
  made = again(IMAGES, parameters, ALL, extra=EXTRA)
  np.testing.assert_array_equal(views, made)
  alone = parameters_of(KEYS, 8, (20, 24, 3), ALL, extra=EXTRA)
  jax.tree.map(np.testing.assert_array_equal, alone, parameters)
  # In another order, images need their parameters in that order too.
  assert (
    views[::-1] != again(IMAGES[::-1], parameters, ALL, extra=EXTRA)
  ).any()
  turned = jax.tree.map(lambda x: x[::-1], parameters)
  np.testing.assert_array_equal(
    views[::-1], again(IMAGES[::-1], turned, ALL, extra=EXTRA)
  )


FLIPPED = View(size=8, jitter_probability=0, grayscale=0, groups=("rotation",))


def test_crops_of_others_have_the_whole_as_their_window():
  crops = IMAGES[:, :8, :8]
  made, found = draw(KEYS, crops, FLIPPED, crop=False)
  assert (found.crop == np.array([[0, 0, 8, 8]])).all()
  np.testing.assert_array_equal(made, again(crops, found, FLIPPED, crop=False))
  # The window that the host cut does not affect the device's operations.
  told = found.replace(crop=found.crop + 3, image_size=found.image_size * 7)
  np.testing.assert_array_equal(made, again(crops, told, FLIPPED, crop=False))


def test_equal_keys_share_their_draw():
  keys = jnp.repeat(KEYS[::4], 4)
  _, found = draw(keys, IMAGES, ALL, extra=EXTRA)
  for leaf in jax.tree.leaves(found):
    groups = np.asarray(leaf).reshape(2, 4, -1)
    assert (groups == groups[:, :1]).all()
  assert (found.crop[0] != found.crop[4]).any()


def test_explicit_meshes():
  mesh = jax.make_mesh((4,), ("rows",))
  share = NamedSharding(mesh, PartitionSpec("rows"))
  keys, images = (jax.device_put(x, share) for x in (KEYS, IMAGES))
  made, found = random_view(keys, images, FLIPPED, return_parameters=True)
  expected, parameters = draw(KEYS, IMAGES, FLIPPED)
  np.testing.assert_allclose(made, expected, atol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, found, parameters)
  assert found.crop.sharding.spec[0] == "rows"
  np.testing.assert_allclose(
    apply_view(images, found, FLIPPED), expected, atol=1e-6
  )


def _cost(run, *arguments, **options):
  """Returns a compiled program's FLOPs, bytes accessed and instructions."""
  compiled = run.lower(*arguments, **options).compile()
  found = compiled.cost_analysis()
  lines = [x for x in compiled.as_text().splitlines() if " = " in x]
  return found["flops"], found["bytes accessed"], len(lines)


def test_parameters_cost_nothing_where_nobody_asks():
  """Unused parameters leave the program; used ones cost under 1% FLOPs."""
  arguments = (KEYS, IMAGES, ALL)
  without = _cost(plain, *arguments, extra=EXTRA)
  dropped = jit(
    lambda *x: draw.__wrapped__(*x, extra=EXTRA)[0], static_argnums=2
  )
  assert _cost(dropped, *arguments) == without
  told = _cost(draw, *arguments, extra=EXTRA)
  assert told[2] > without[2], "otherwise the comparison above sees nothing"
  assert told[0] < 1.01 * without[0]


@pytest.mark.parametrize(
  ("change", "view", "expected"),
  [
    (lambda p: jax.tree.map(lambda x: x[:4], p), ALL, r"must be \[8.*got \(4"),
    (lambda p: p.replace(flip=p.flip[0]), ALL, r"flip .* \[8\] .*got \(\)"),
    (
      lambda p: p.replace(crop=p.crop[:, :2]),
      ALL,
      r"crop of parameters must be \[8, 4\] .*got \(8, 2\)",
    ),
    (
      lambda p: p.replace(image_size=p.image_size * 2),
      ALL,
      r"images of 40x48 pixels, but these images are \(8, 20, 24, 3\)",
    ),
    (
      lambda p: p.replace(crop=p.crop.at[0].set(np.array([30, 0, 4, 4]))),
      ALL,
      r"must lie in images of 20x24 pixels, got \[30",
    ),
    (
      lambda p: p.replace(elements={}),
      ALL,
      r"elements of \['rotation', .*got \[\]",
    ),
    (
      lambda p: p,
      dataclasses.replace(ALL, groups=("flips",)),
      r"elements of \['flips', 'rotation'\].*got .*'rotation 2'",
    ),
    (lambda p: p.elements, ALL, "must be ViewParameters, got dict"),
    (lambda p: p, dataclasses.replace(ALL, flip=0), "flip for .* without flip"),
    (lambda p: p, dataclasses.replace(ALL, blur=0), "the view is without blur"),
    (
      lambda p: p,
      dataclasses.replace(ALL, jitter_probability=0),
      "the view is without jitter",
    ),
    (
      lambda p: p,
      dataclasses.replace(ALL, jitter=(0.4, 0.4, 0.4, 0)),
      "parameters have hue for .* without hue",
    ),
    (
      lambda p: p.replace(sigma=p.sigma + 9),
      ALL,
      r"sigma must be in \[0, max_sigma=1\]",
    ),
  ],
)
def test_parameters_that_do_not_fit(drawn, change, view, expected):
  parameters = change(drawn[1])
  with pytest.raises(ValueError, match=expected) as error:
    apply_view(IMAGES, parameters, view, extra=EXTRA)
  assert "\n" not in str(error.value)


def test_windows_of_a_view_of_whole_images():
  view = View(size=20, scale=(1, 1), ratio=(1, 1), **{"flip": 0.0})
  view = dataclasses.replace(view, jitter_probability=0, grayscale=0)
  images = IMAGES[:, :, :20]
  found = parameters_of(KEYS, 8, (20, 20), view)
  np.testing.assert_array_equal(
    apply_view(images, found, view), plain(KEYS, images, view)
  )
  found = found.replace(crop=found.crop.at[3, 0].set(1))
  with pytest.raises(ValueError, match=r"must be the whole image.*\[1, 0, 20"):
    apply_view(images, found, view)


def _views_of_recipes():
  """Every view that a recipe describes, once, by recipe and name."""
  found = {}
  for path in sorted(CONFIGS.glob("*.py")):
    views = config_lib.parse(flags.raw(str(path))).views
    for field in dataclasses.fields(views):
      view = getattr(views, field.name)
      if isinstance(view, View):
        found.setdefault(view, f"{path.stem}-{field.name}")
  return {name: view for view, name in found.items()}


VIEWS = _views_of_recipes()
# A small view with colours and one with groups, for a few quick draws.
QUICK = {"cifar_byol-second": 8, "photonics_gpm-first": 8}
DRAWS, BATCH = 1000, 50


def _assert_reproduced(view, draws, side):
  """Draws views and checks that their parameters reproduce them."""
  channels = len(view.mean)
  random = np.random.default_rng(0)
  height = side if view.is_whole else side - side // 6
  for number in range(draws // BATCH):
    shape = (BATCH, height, side, channels)
    # Flat areas could divide by zero.
    images = random.integers(0, 256, shape, np.uint8)
    images[: BATCH // 5, : height // 2] = 255 * (number % 2)
    made, parameters = draw(jax.random.key(number), images, view)
    found = again(images, parameters, view)
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made, found)


@pytest.mark.parametrize("name", list(QUICK))
def test_views_of_recipes_are_reproduced(name):
  view = dataclasses.replace(VIEWS[name], size=QUICK[name])
  _assert_reproduced(view, 2 * BATCH, QUICK[name] * (1 if view.is_whole else 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(VIEWS))
def test_a_thousand_draws_of_recipes_are_reproduced(name):
  """Draws one batch at full size, and the rest at up to 64 pixels."""
  view = VIEWS[name]
  for size, draws in {view.size: BATCH, min(view.size, 64): DRAWS}.items():
    side = size if view.is_whole else round(1.2 * size)
    _assert_reproduced(dataclasses.replace(view, size=size), draws, side)
