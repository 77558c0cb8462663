"""The pictures that the drawings show, made by the library's own functions."""

from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from essl_jax import augment, transformations

SIDE = 160  # pixels of a picture
LARGE = augment.View(size=SIDE, scale=(0.2, 1.0))
SMALL = augment.View(size=SIDE, scale=(0.05, 0.14), flip=0.0)
CROP = augment.View(
  size=SIDE, scale=(0.2, 0.6), flip=0.0, jitter=(0, 0, 0, 0), grayscale=0.0
)


def square(picture: np.ndarray) -> np.ndarray:
  """The centre of a picture uint8 [H, W, 3], as uint8 [SIDE, SIDE, 3]."""
  height, width, _ = picture.shape
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  cut = picture[top : top + side, left : left + side]
  return np.asarray(Image.fromarray(cut).resize((SIDE, SIDE), Image.LANCZOS))


@functools.partial(jax.jit, static_argnums=2)
def _draw(keys: jax.Array, images: jax.Array, view: augment.View) -> jax.Array:
  return augment.random_view(keys, images, view, normalized=False)


def draw(
  picture: np.ndarray, view: augment.View, count: int, seed: int
) -> np.ndarray:
  """Random views of a picture.

  Args:
    picture: uint8 [H, W, 3].
    view: how they are drawn.
    count: how many.
    seed: which.

  Returns:
    float32 [count, size, size, 3] in [0, 1].
  """
  keys = jax.random.split(jax.random.key(seed), count)
  images = jnp.repeat(jnp.asarray(picture)[None], count, 0)
  return np.asarray(_draw(keys, images, view))


def ten(picture: np.ndarray) -> np.ndarray:
  """Ten views as a method draws them; of any picture by the same draws."""
  return draw(picture, LARGE, 10, 1)


def pair(picture: np.ndarray) -> np.ndarray:
  """Two of them that show well what a method makes equal."""
  return ten(picture)[[0, 4]]


def rotations(picture: Any) -> np.ndarray:
  """The four quarter turns of a picture [H, H, 3]: [4, H, H, 3]."""
  images = jnp.asarray(picture)[None]
  return np.asarray(transformations.four_fold_rotation(images)[0])


def elements(group: Any, picture: Any) -> np.ndarray:
  """A picture under all elements of a group: [K, H, H, 3]."""
  return np.asarray(group.apply_all(jnp.asarray(picture)[None])[0])


def steps(picture: np.ndarray) -> Mapping[str, np.ndarray]:
  """What each operation of a view does, by its name; float32 [H, W, 3]."""
  image = jnp.asarray(picture[None], jnp.float32) / 255
  found = {
    "image": image,
    "crop": draw(picture, CROP, 1, 3),
    "flip": augment.horizontal_flip(image, jnp.array([True])),
    "brightness": augment.adjust_brightness(image, 1.4),
    "contrast": augment.adjust_contrast(image, 1.6),
    "saturation": augment.adjust_saturation(image, 2.0),
    "hue": augment.adjust_hue(image, 0.1),
    "grayscale": augment.to_grayscale(image),
    "blur": augment.gaussian_blur(image, 3.0),
    "solarize": augment.solarize(image, 0.5),
  }
  return {name: np.asarray(x)[0] for name, x in found.items()}
