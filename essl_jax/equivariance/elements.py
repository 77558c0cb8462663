"""Targets and scores of a head that predicts elements of a group."""

from collections.abc import Sequence
import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs, losses, transformations
from essl_jax.transformations import TransformationGroup
from essl_jax.transformations.drawn import draw_labels

Copies = tuple[jax.Array, dict[str, jax.Array]]
"""K copies of N images, [K N, H, H, C]: the first of all images, then the
second, ...; and the targets. These are `labels`, int32 [K N], the element that
the head must predict for each copy, and for relative predictions `partners`,
int32 [N, K], the copy of the same image that each copy is compared with."""


@dataclasses.dataclass(frozen=True)
class ElementPrediction:
  """Predicts which element of a group was applied, or leads from copy to copy.

  Attributes:
    group: its elements are predicted.
    separate_heads: one head for each factor of a product, instead of one for
      all combinations.
    relative: the head sees the features of two copies of an image and predicts
      the element that leads from the first to the second. This needs no upright
      images, so it works for data that contain rotated ones already.
  """

  group: TransformationGroup
  separate_heads: bool = False
  relative: bool = False

  @property
  def heads(self) -> dict[str, int]:
    """The number of classes of each head, by the name of its group."""
    groups = self.group.factors if self.separate_heads else (self.group,)
    return {group.name: group.num_classes for group in groups}

  @inputs.any_sharding(by_example=True)
  def all_elements(self, images: chex.Array, keys: chex.Array) -> Copies:
    """Applies every element to every image.

    Args:
      images: [N, H, H, C], in [0, 1].
      keys: typed keys [N], for relative predictions: one random copy of an
        image is the partner of all its copies, itself included.

    Returns:
      K copies of each image for K elements.
    """
    transformed, elements = self.group.apply_all(images)
    if not self.relative:
      return transformed, {"labels": elements}
    partner = draw_labels(keys, 0, self.group.num_classes)
    shape = (partner.shape[0], self.group.num_classes)
    partners = jnp.broadcast_to(partner[:, None], shape)
    return transformed, self._compared(elements, partners)

  @inputs.any_sharding(by_example=True)
  def random_elements(self, images: chex.Array, keys: chex.Array) -> Copies:
    """Applies one random element to every image; two if `relative`.

    Args:
      images: [N, H, H, C], in [0, 1].
      keys: typed keys [N].

    Returns:
      One copy of each image, or two that are each other's partners.
    """
    if not self.relative:
      transformed, elements = self.group.apply_random(keys, images)
      return transformed, {"labels": elements}
    n = images.shape[0]
    pair = jax.vmap(jax.random.split, out_axes=1)(keys)
    drawn = [self.group.apply_random(key, images) for key in pair]
    transformed = jnp.concatenate([x for x, _ in drawn])
    elements = jnp.concatenate([labels for _, labels in drawn])
    partners = jnp.broadcast_to(jnp.array([[1, 0]], jnp.int32), (n, 2))
    return transformed, self._compared(elements, partners)

  def _compared(
    self, elements: jax.Array, partners: jax.Array
  ) -> dict[str, jax.Array]:
    """The targets: the element that leads from its partner to each copy."""
    n, copies = partners.shape
    by_copy = elements.reshape(copies, n)
    from_element = jnp.take_along_axis(by_copy, partners.T, axis=0)
    table = jnp.asarray(self.group.differences)
    labels = table[from_element, by_copy].reshape(-1)
    return {"labels": labels, "partners": partners}

  def loss(self, logits: chex.Array, labels: chex.Array) -> jax.Array:
    """Computes the cross-entropy, summed over the heads.

    Args:
      logits: [M, classes of all heads].
      labels: int32 [M], elements of the whole group.

    Returns:
      A float32 scalar, the mean over M. It is NaN if a traced label is out of
      range.

    Raises:
      ValueError: shapes do not fit, or labels are not integers or known to be
        out of range.
    """
    labels = inputs.labels_of(labels, len(logits), self.group.num_classes)
    parts = zip(self._split(logits), self._targets(labels), strict=True)
    return sum(
      (losses.transformation_prediction(x, y) for x, y in parts),
      jnp.zeros((), jnp.float32),
    )

  def classify(self, logits: chex.Array) -> jax.Array:
    """The predicted element, int32 [M]; arguments as for `loss`."""
    found = jnp.zeros(logits.shape[:1], jnp.int32)
    for part, size in zip(
      self._split(logits), self.heads.values(), strict=True
    ):
      found = found * size + part.argmax(-1).astype(jnp.int32)
    return found

  def _split(self, logits: chex.Array) -> Sequence[jax.Array]:
    sizes = list(self.heads.values())
    total = sum(sizes)
    if logits.ndim != 2 or logits.shape[1] != total:
      raise ValueError(
        f"logits must be [M, {total}] for {self.group.name}, got shape"
        f" {logits.shape}"
      )
    ends = np.cumsum(sizes)[:-1].tolist()
    return jnp.split(jnp.asarray(logits), ends, axis=1)

  def _targets(self, labels: chex.Array) -> Sequence[jax.Array]:
    """The labels of each head, from those of the whole group."""
    targets = []
    for size in reversed(list(self.heads.values())[1:]):
      targets.append(labels % size)
      labels = labels // size
    # A label out of range stays out of range in the first.
    return [labels, *targets[::-1]]


@inputs.any_sharding(by_example=True)
def pair_features(features: chex.Array, partners: chex.Array) -> jax.Array:
  """Concatenates the features of each copy's partner and of the copy.

  Args:
    features: [K N, F], in the order of `Copies`.
    partners: int32 [N, K].

  Returns:
    [K N, 2 F].

  Raises:
    ValueError: the numbers of rows do not fit.
  """
  n, copies = partners.shape
  if features.shape[0] != n * copies:
    raise ValueError(
      f"features must have {n} x {copies} rows for partners [{n}, {copies}],"
      f" got shape {features.shape}"
    )
  by_copy = features.reshape(copies, n, -1)
  others = jnp.take_along_axis(by_copy, partners.T[:, :, None], axis=0)
  return jnp.concatenate([others, by_copy], axis=-1).reshape(n * copies, -1)


def make(
  group: str, *, heads: str = "joint", relative: bool = False
) -> ElementPrediction:
  """Makes the prediction that a config describes.

  Args:
    group: see `transformations.find`.
    heads: `joint`, or `each` for a head for every factor of a product.
    relative: see `ElementPrediction`.

  Returns:
    The prediction.

  Raises:
    ValueError: the group is unknown; a product has equal elements; separate
      heads are asked for without a product; or a relative prediction is asked
      for transformations that are no group.
  """
  found = transformations.find(group)
  if heads == "each" and not found.factors:
    raise ValueError(
      f"heads=each needs a product of groups, and {group} is not one: leave"
      " heads at joint"
    )
  if relative and heads == "each":
    raise ValueError(
      "relative predictions have one head: leave heads at joint (differences of"
      " a product do not split into those of its factors)"
    )
  found.check_elements()
  made = ElementPrediction(found, heads == "each", relative)
  if relative:
    _ = found.differences  # raises if they are not a group
  return made
