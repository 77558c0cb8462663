"""Random elements of sets of transformations."""

from typing import Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs


class Drawn(Protocol):
  """Draws random elements of a set whose `apply` applies them."""

  def apply(self, images: chex.Array, labels: chex.Array) -> jax.Array:
    """Applies element `labels[i]` to image i."""

  def _count(self, side: int) -> int:
    """Returns the number of elements for images with this side in pixels."""

  def draw(self, keys: chex.Array, side: int) -> jax.Array:
    """Draws the elements that `apply_random` applies.

    Args:
      keys: one random key per image, [N].
      side: side of the images in pixels.

    Returns:
      Labels int32 [N].
    """
    return draw_labels(keys, 0, self._count(side))

  def draw_sometimes(
    self, keys: chex.Array, side: int, probability: float = 0.5
  ) -> jax.Array:
    """Draws the elements that `apply_sometimes` applies.

    Args:
      keys: one random key per image, [N].
      side: side of the images in pixels.
      probability: probability of an element other than the identity.

    Returns:
      Labels int32 [N]; 0 leaves the image unchanged.
    """
    which, whether = jax.vmap(jax.random.split, out_axes=1)(keys)
    chance = jnp.asarray(probability, jnp.float32)
    draw = lambda key: jax.random.bernoulli(key, chance)
    labels = draw_labels(which, 1, self._count(side))
    return jnp.where(jax.vmap(draw)(whether), labels, 0)

  @inputs.any_sharding(by_example=True)
  def apply_random(
    self, keys: chex.Array, images: chex.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Applies one uniformly drawn element to each image.

    Args:
      keys: one random key per image, [N], or a single key, expanded by
        `fold_in(key, i)` for image i.
      images: [N, H, H, C].

    Returns:
      Images [N, H, H, C] and labels int32 [N].

    Raises:
      ValueError: a wrong number of keys, or images that are not square.
    """
    keys = inputs.image_keys(keys, len(square(images)))
    labels = self.draw(keys, images.shape[1])
    return self.apply(images, labels), labels

  @inputs.any_sharding(by_example=True)
  def apply_sometimes(
    self, keys: chex.Array, images: chex.Array, probability: float = 0.5
  ) -> tuple[jax.Array, jax.Array]:
    """Applies an element other than the identity with a given probability.

    Args:
      keys: as in `apply_random`.
      images: [N, H, H, C].
      probability: probability of a uniformly drawn element other than the
        identity.

    Returns:
      Images [N, H, H, C] and labels int32 [N], 0 where the image stayed as it
      is.

    Raises:
      ValueError: as in `apply_random`, or a probability outside [0, 1].
    """
    inputs.check_range("probability", probability, 0, 1)
    keys = inputs.image_keys(keys, len(square(images)))
    labels = self.draw_sometimes(keys, images.shape[1], probability)
    return self.apply(images, labels), labels


def square(images: chex.Array) -> jax.Array:
  """Returns the images as an array; ValueError if they are not square."""
  shape = np.shape(images)
  if len(shape) != 4 or shape[1] != shape[2]:
    raise ValueError(f"images must be square, [N, H, H, C], got shape {shape}")
  return jnp.asarray(images)


def draw_labels(keys: chex.Array, least: int, count: int) -> jax.Array:
  """Draws labels int32 [N] uniform in least .. count - 1, one per key."""
  draw = lambda key: jax.random.randint(key, (), least, count, jnp.int32)
  return jax.vmap(draw)(keys)
