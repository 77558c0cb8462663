"""Finite sets of image transformations.

A set knows its number of classes. It applies all of its elements to every
image, or one element to each image. Label k stands for element k, and element 0
is the identity.
"""

from collections.abc import Callable
import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs
from essl_jax.transformations.drawn import Drawn, square

Element = Callable[[jax.Array], jax.Array]
_PROBE_SIDE = 8  # side in pixels of the image that tells elements apart


@dataclasses.dataclass(frozen=True)
class TransformationGroup(Drawn):
  """A finite set of transformations of images, one function per element.

  Most are groups in the strict sense. Blurs and grayscale are not: they lose
  information, so no element undoes them (see `differences`).

  Attributes:
    name: what configs call the group.
    elements: element k maps images [N, H, W, C] to images of the same shape
      and dtype. All must differ, and element 0 is the identity. See
      `check_elements`.
    factors: the groups that this one is a product of; empty if it is none.
    element_names: names of the elements for tables; by default `element 0` and
      so on.
    moves: words for what elements other than the identity do. Two groups with
      a word in common have an element in common. A group without words has
      elements in common only with groups of the same name.
    drawn_by: fields of `augment.View` that draw elements at random if above 0.
  """

  name: str
  elements: tuple[Element, ...]
  factors: tuple["TransformationGroup", ...] = ()
  element_names: tuple[str, ...] = ()
  moves: frozenset[str] = frozenset()
  drawn_by: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    given, count = self.element_names, len(self.elements)
    if count < 2:
      raise ValueError(f"{self.name} needs two elements or more, got {count}")
    if given and (len(given), len(set(given))) != (count, count):
      raise ValueError(
        f"the {count} elements of {self.name} need as many"
        f" different element_names, got {given}"
      )

  @property
  def names(self) -> tuple[str, ...]:
    """The name of each element."""
    numbers = range(self.num_classes)
    return self.element_names or tuple(f"element {k}" for k in numbers)

  @property
  def num_classes(self) -> int:
    """The number of elements."""
    return len(self.elements)

  def _count(self, side: int) -> int:
    del side
    return self.num_classes

  @inputs.any_sharding(by_example=True)
  def apply(self, images: chex.Array, labels: chex.Array) -> jax.Array:
    """Applies element `labels[i]` to image i.

    Args:
      images: [N, H, H, C], uint8 or floating in [0, 1].
      labels: int32 [N] in [0, classes).

    Returns:
      Images [N, H, H, C] of the same dtype. Traced labels out of range leave
      their image unchanged.

    Raises:
      ValueError: images that are not square, labels that are not [N] integers,
        or known labels out of range.
    """
    images = square(images)
    labels = inputs.labels_of(labels, len(images), self.num_classes)
    transformed = images
    for k in range(1, self.num_classes):
      chosen = (labels == k)[:, None, None, None]
      transformed = jnp.where(chosen, self._element(k, images), transformed)
    return transformed

  @inputs.any_sharding(by_example=True)
  def apply_all(self, images: chex.Array) -> tuple[jax.Array, jax.Array]:
    """Applies every element to every image.

    Args:
      images: [N, H, H, C], uint8 or floating in [0, 1].

    Returns:
      Images [K N, H, H, C] and labels int32 [K N] for K elements: first all
      images under element 0, then under element 1, and so on.
    """
    images = square(images)
    each = [self._element(k, images) for k in range(self.num_classes)]
    transformed = jnp.concatenate(each)
    numbers = jnp.arange(self.num_classes, dtype=jnp.int32)
    return transformed, jnp.repeat(numbers, images.shape[0])

  def _element(self, k: int, images: jax.Array) -> jax.Array:
    """Applies element k; ValueError if it changes the shape or dtype."""
    found = self.elements[k](images)
    if (found.shape, found.dtype) != (images.shape, images.dtype):
      raise ValueError(
        f"element {k} of {self.name} must keep the shape and the dtype of"
        f" {jax.typeof(images)}, but returns {jax.typeof(found)}"
      )
    return found

  @functools.cached_property
  def differences(self) -> np.ndarray:
    """The element that leads from one element's image to another's.

    Returns:
      int32 [K, K]: element `differences[a, b]` turns an image under element a
      into the same image under element b.

    Raises:
      ValueError: the set is not a group, so it has no such table.
    """
    count = self.num_classes
    side, channels = _PROBE_SIDE, 3
    once = self._probe
    with jax.ensure_compile_time_eval():
      twice, _ = jax.jit(self.apply_all)(once)
    # [g, a]: element g applied to the image under element a.
    twice = np.asarray(twice).reshape(count, count, side, side, channels)
    table = np.full((count, count), -1, np.int32)
    for a in range(count):
      for g in range(count):
        near = np.abs(once - twice[g, a]).max(axis=(1, 2, 3)) < 1e-6
        table[a, np.flatnonzero(near)] = g
    if (table < 0).any():
      raise ValueError(
        f"{self.name} is not a group: not every element can be undone by"
        " another, so two transformed images have no difference to predict"
      )
    return table

  def check_elements(self) -> None:
    """Raises ValueError if two elements of a product do the same."""
    transformed = self._probe if self.factors else np.empty((0,))
    for k, image in enumerate(transformed):
      near = np.abs(transformed[:k] - image).max(axis=(1, 2, 3)) < 1e-6
      if near.any():
        raise ValueError(
          f"the product {self.name} has elements that do the same (labels"
          f" {near.argmax()} and {k}), so no head can tell them apart: leave"
          " one factor out"
        )

  @functools.cached_property
  def _probe(self) -> np.ndarray:
    """One asymmetric image under every element, [K, H, H, 3]."""
    shape = (1, _PROBE_SIDE, _PROBE_SIDE, 3)
    image = np.random.default_rng(0).random(shape, np.float32)
    with jax.ensure_compile_time_eval():
      return np.asarray(jax.jit(self.apply_all)(image)[0])


@dataclasses.dataclass(frozen=True)
class CyclicShifts(Drawn):
  """Cyclic shifts by any number of pixels: H * H elements.

  Attributes:
    name: what configs call the group.
    moves: as in `TransformationGroup`.
  """

  name: str
  moves: frozenset[str] = frozenset()
  factors = ()

  @inputs.any_sharding(by_example=True)
  def apply(self, images: chex.Array, labels: chex.Array) -> jax.Array:
    """Shifts image i by `labels[i]`.

    Args:
      images: [N, H, H, C].
      labels: int32 [N]; label k shifts by k // H pixels downward and k % H to
        the right.

    Returns:
      Images [N, H, H, C] of the same dtype. Traced labels out of range wrap
      around.

    Raises:
      ValueError: as in `TransformationGroup.apply`.
    """
    images = square(images)
    side = images.shape[1]
    labels = inputs.labels_of(labels, len(images), self._count(side))
    shift = lambda image, k: jnp.roll(image, (k // side, k % side), (0, 1))
    return jax.vmap(shift)(images, labels)

  def _count(self, side: int) -> int:
    return side**2


def overlap(a: Drawn, b: Drawn) -> bool:
  """Tells whether two groups share an element other than the identity.

  Args:
    a: one group; a product is compared by its factors.
    b: the other group.
  """
  factors = [getattr(group, "factors", ()) or (group,) for group in (a, b)]
  said = lambda group: group.moves or {group.name}
  return any(said(x) & said(y) for x in factors[0] for y in factors[1])
