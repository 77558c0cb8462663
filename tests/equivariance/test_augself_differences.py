"""AugSelf's differences of the parameters of two views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax import augment
from essl_jax.augment import View
from essl_jax.equivariance import augself

pytestmark = pytest.mark.quick

JITTER = (0.4, 0.4, 0.4, 0.1)
UNIT = View(size=8, jitter=JITTER, blur=0.5, solarize=0.5, groups=("rotation",))


def _parameters(file, view):
  """Those of the file, whose windows are parts of an image of side 1."""
  of = lambda name: file[f"augself_view{view}_{name}"]
  names = "flip jittered brightness contrast saturation hue blurred sigma"
  names += " solarized threshold"
  count = len(of("flip"))
  drawn = augment.draw_parameters(jax.random.key(0), count, (1, 1), UNIT)
  return drawn.replace(
    crop=of("crop_top_left_height_width"),
    elements={"rotation": of("turns")},
    **{name: of(name) for name in names.split()},
  )


@pytest.mark.parametrize("order", ["12", "21"])
def test_golden_differences(golden, order):
  file = golden("equivariance_terms")
  pair = [_parameters(file, view) for view in order]
  found = augself.differences(*pair, jitter=JITTER)
  assert set(found) == {"crop", "color", "flip", "blur", "sol", "rot"}
  for name, value in found.items():
    expected = file[f"augself_difference_{order}_{name}"]
    assert value.shape == expected.shape
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6)


def test_what_is_not_applied_counts_as_no_change(golden):
  """Values that were drawn and not applied change nothing."""
  drawn = _parameters(golden("equivariance_terms"), "1")
  assert np.abs(drawn.sigma - drawn.as_applied().sigma).max() > 0.1
  found = augself.differences(drawn, drawn.as_applied(), jitter=JITTER)
  for name, value in found.items():
    expected = np.ones_like(value) if name == "flip" else np.zeros_like(value)
    np.testing.assert_array_equal(value, expected)


def test_differences_of_drawn_views():
  """By hand, of two windows and factors in a wider range than 0 to 2."""
  jitter = (1.5, 0.0, 0.4, 0.1)
  view = View(size=8, jitter=jitter, jitter_probability=1, flip=0.0)
  keys = jax.random.split(jax.random.key(1), 2)
  first, second = (
    augment.draw_parameters(key, 50, (30, 40, 3), view) for key in keys
  )
  flips = np.arange(50) % 2 == 1
  first = first.replace(flip=jnp.asarray(flips))
  found = augself.differences(first, second, jitter=jitter)
  assert "rot" not in found
  top1, left1, height1, width1 = np.asarray(first.crop).T
  top2, left2, height2, width2 = np.asarray(second.crop).T
  side = np.where(flips, -1, 1)
  right = (left1 + width1 / 2 - left2 - width2 / 2) / 40 * side
  down = (top1 + height1 / 2 - top2 - height2 / 2) / 30
  sizes = (height1 - height2) / 30, (width1 - width2) / 40
  np.testing.assert_allclose(
    found["crop"], np.stack([down, right, *sizes], axis=1), atol=1e-6
  )
  np.testing.assert_allclose(
    found["color"][:, 0], (first.brightness - second.brightness) / 2.5
  )
  np.testing.assert_array_equal(found["color"][:, 1], np.zeros(50))
  assert np.abs(found["color"]).max() <= 1
  assert np.abs(found["color"][:, (0, 2, 3)]).max(axis=0).min() > 0.5
  np.testing.assert_array_equal(found["flip"][:, 0], ~flips)


def test_wrong_inputs_are_named():
  one, two = (
    augment.draw_parameters(jax.random.key(0), count, (8, 8), View())
    for count in (4, 5)
  )
  with pytest.raises(ValueError, match=r"same images.* \(4, 4\) and \(5, 4\)"):
    augself.differences(one, two, jitter=JITTER)
  for wrong in ((0.4, 0.4, 0.4), (-0.1, 0.4, 0.4, 0.1), (np.nan, 0, 0, 0)):
    with pytest.raises(ValueError, match="jitter must be four"):
      augself.differences(one, one, jitter=wrong)
