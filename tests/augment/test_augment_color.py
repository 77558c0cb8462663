"""Colour operations against numbers of PIL."""

import itertools

from augment_helpers import ADJUST, IMAGES, assert_levels
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax import augment
from essl_jax.augment import color

COLORS = {
  "brightness": (0.6, 1.4),
  "contrast": (0.6, 1.4),
  "saturation": (0.6, 0.8, 1.4),
  "hue": (-0.1, 0.07, 0.1),
}


@pytest.fixture(scope="module")
def goldens(golden):
  return golden("augmentations")


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", COLORS)
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


def test_jitter_order_varies_and_is_one_of_all_orders():
  strengths = (0.4, 0.4, 0.4, 0.1)
  count = 120
  many = jnp.asarray(np.repeat(IMAGES[:1, :6, :6], count, axis=0) / 255.0)
  draws = jax.random.uniform(jax.random.key(0), (8, count))
  out = np.asarray(color.color_jitter(many, draws, strengths))
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
