"""Checks for the elements of user-defined groups."""

import jax
import numpy as np

from essl_jax.transformations.group import TransformationGroup


def check_elements(
  group: TransformationGroup, side: int, channels: int
) -> None:
  """Checks that element 0 is the identity and that all elements differ.

  Args:
    group: the group to check.
    side: side of its images in pixels.
    channels: number of channels of its images.

  Raises:
    ValueError: element 0 changes an image, two elements have the same effect on
      an image without symmetry, or an element cannot be applied.
  """
  shape = (1, side, side, channels)
  image = np.random.default_rng(0).random(shape, np.float32)
  images = np.asarray(jax.jit(group.apply_all)(image)[0])
  same = lambda a, b: np.abs(a - b).max(axis=(1, 2, 3)) < 1e-6
  if not same(images[:1], image).all():
    raise ValueError("element 0 must be the identity")
  for k in range(len(images)):
    near = same(images[:k], images[k])
    if near.any():
      raise ValueError(
        f"elements {near.argmax()} and {k} do the same: leave one out"
      )
