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


def assert_torchvision_boxes(boxes, goldens, shape, scale):
  """Compares many boxes [N, 4] with those that torchvision draws."""
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
