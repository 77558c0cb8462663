"""How well the prediction head names transformations of unseen images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from essl_jax import augment, transformations


def make_predict(
  networks: Any, group: transformations.TransformationGroup, view: augment.View
) -> Callable[[Any, tuple[jax.Array, jax.Array]], jax.Array]:
  """Which elements the head names for all elements of every image.

  Args:
    networks: `methods.Networks` with a transformation head.
    group: whose elements are applied.
    view: crops and normalises the images; the third view of the training.

  Returns:
    A pure function of all variables and of (uint8 images [N, H, W, 3], one
    random key per image [N]) to booleans [N, K]: was element k recognised?
  """

  def predict(variables: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    images, keys = batch
    crops = augment.random_view(keys, images, view)
    transformed, labels = group.apply_all(crops)
    features = networks.encoder.apply(
      _branch(variables, "encoder"), transformed, train=False
    )
    logits = networks.transformation_head.apply(
      _branch(variables, "transformation_head"), features, train=False
    )
    hits = logits.argmax(-1) == labels
    return hits.reshape(group.num_classes, images.shape[0]).T

  return predict


def _branch(variables: Any, name: str) -> dict[str, Any]:
  return {kind: tree[name] for kind, tree in variables.items() if name in tree}


def image_keys(seed: int, first: int, n: int) -> jax.Array:
  """Legacy keys uint32 [n, 2] of the images first, first + 1, and so on."""
  key = jax.random.PRNGKey(seed)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(n))
