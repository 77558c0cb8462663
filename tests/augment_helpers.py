"""What the tests of augmentations share."""

import jax.numpy as jnp
import numpy as np

from essl_jax import augment

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 20, 24, 3), np.uint8)
ADJUST = {
  "brightness": augment.adjust_brightness,
  "contrast": augment.adjust_contrast,
  "saturation": augment.adjust_saturation,
  "hue": augment.adjust_hue,
}


def assert_levels(actual, expected, tolerance=2.0):
  """Compares float32 in [0, 1] with grey levels 0 to 255."""
  assert actual.dtype == jnp.float32
  expected = expected.astype(np.float32)
  np.testing.assert_allclose(
    np.asarray(actual) * 255, expected, rtol=0, atol=tolerance + 1e-3
  )
