"""Groups of image transformations, to predict or to augment with.

A group knows its number of classes, applies all of its elements to every
image, or one random element to each. Label k names element k. `GROUPS` are
those whose elements a network can predict; `AUGMENTATIONS` has them and those
with too many elements for that.
"""

from collections.abc import Callable, Mapping
import dataclasses

import chex
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class TransformationGroup:
  """A finite group acting on images, one function an element.

  Attributes:
    name: what configs call the group.
    elements: element k maps images [N, H, W, C] to images of the same shape
      and dtype. Element 0 is the identity.
  """

  name: str
  elements: tuple[Callable[[jax.Array], jax.Array], ...]

  @property
  def num_classes(self) -> int:
    """The order of the group."""
    return len(self.elements)

  def apply_all(self, images: chex.Array) -> tuple[jax.Array, jax.Array]:
    """Applies every element to every image.

    Args:
      images: [N, H, W, C], square where an element turns them.

    Returns:
      Images [K N, H, W, C] and labels int32 [K N] for K elements: first all
      images under element 0, then all under element 1, and so on.
    """
    images = _square(images)
    transformed = jnp.concatenate([f(images) for f in self.elements])
    labels = jnp.repeat(
      jnp.arange(self.num_classes, dtype=jnp.int32), images.shape[0]
    )
    return transformed, labels

  def apply_random(
    self, keys: chex.Array, images: chex.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Applies one uniformly drawn element to each image.

    Args:
      keys: one random key per image, typed keys [N].
      images: [N, H, W, C].

    Returns:
      Images [N, H, W, C] and labels int32 [N].
    """
    images = _square(images)
    draw = lambda key: jax.random.randint(key, (), 0, self.num_classes)
    labels = jax.vmap(draw)(keys)
    transformed = images
    for k, element in enumerate(self.elements[1:], start=1):
      chosen = (labels == k)[:, None, None, None]
      transformed = jnp.where(chosen, element(images), transformed)
    return transformed, labels


def _square(images: chex.Array) -> jax.Array:
  if images.ndim != 4 or images.shape[1] != images.shape[2]:
    raise ValueError(
      f"images must be square, [N, H, H, C], got shape {images.shape}"
    )
  return jnp.asarray(images)


def _quarter_turns(k: int) -> Callable[[jax.Array], jax.Array]:
  return lambda images: jnp.rot90(images, k, axes=(1, 2))


def _flip(*axes: int) -> Callable[[jax.Array], jax.Array]:
  return lambda images: jnp.flip(images, axes)


def _half_shift(*axes: int) -> Callable[[jax.Array], jax.Array]:
  def shift(images: jax.Array) -> jax.Array:
    if images.shape[1] % 2:
      raise ValueError(
        f"images to be shifted by half must have even sides, got shape"
        f" {images.shape}"
      )
    return jnp.roll(images, [images.shape[axis] // 2 for axis in axes], axes)

  return shift


@dataclasses.dataclass(frozen=True)
class CyclicShifts:
  """Shifts by any number of pixels, over the edges: H * W elements.

  Attributes:
    name: what configs call the group.
  """

  name: str

  def apply_random(
    self, keys: chex.Array, images: chex.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Applies one uniformly drawn shift to each image.

    Args:
      keys: one random key per image, typed keys [N].
      images: [N, H, H, C].

    Returns:
      Images [N, H, H, C] and labels int32 [N]: label k is a shift by k // H
      pixels downward and k % H to the right.
    """
    images = _square(images)
    side = images.shape[1]
    labels = jax.vmap(lambda k: jax.random.randint(k, (), 0, side**2))(keys)
    shift = lambda image, k: jnp.roll(image, (k // side, k % side), (0, 1))
    return jax.vmap(shift)(images, labels), labels


FOUR_FOLD_ROTATION = TransformationGroup(
  "rotation", tuple(_quarter_turns(k) for k in range(4))
)
# Labels of flips and half translations are those of E-SSL's program.
FLIPS = TransformationGroup(
  "flips",
  (lambda images: images, _flip(1), _flip(2), _flip(1, 2)),
)
HALF_TRANSLATION = TransformationGroup(
  "half_translation",
  (
    lambda images: images,
    _half_shift(2),
    _half_shift(1),
    _half_shift(1, 2),
  ),
)
ANY_ROLL = CyclicShifts("any_roll")

GROUPS = {
  group.name: group for group in (FOUR_FOLD_ROTATION, FLIPS, HALF_TRANSLATION)
}
AUGMENTATIONS: Mapping[str, TransformationGroup | CyclicShifts] = {
  **GROUPS,
  ANY_ROLL.name: ANY_ROLL,
}


def four_fold_rotation(images: chex.Array) -> tuple[jax.Array, jax.Array]:
  """All four quarter turns of every image.

  Args:
    images: [N, H, H, C] of any dtype.

  Returns:
    Images [4 N, H, H, C] of the same dtype and labels int32 [4 N]; label k
    means k counter-clockwise quarter turns. All images at 0 degrees come
    first, then all at 90, 180 and 270.

  Raises:
    ValueError: the images are not square or not of rank 4.

  Example:
    >>> rotated, labels = four_fold_rotation(jnp.zeros((2, 8, 8, 3)))
    >>> rotated.shape, labels.tolist()
    ((8, 8, 8, 3), [0, 0, 1, 1, 2, 2, 3, 3])

  Reference:
    Gidaris et al. 2018 (arXiv 1803.07728); Dangovski et al. 2022, section 3.
  """
  return FOUR_FOLD_ROTATION.apply_all(images)
