"""STL's term: learns a transformation from pairs of images that share it."""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax import inputs, losses
from essl_jax.augment import ViewRequest
from essl_jax.config import bounds
from essl_jax.equivariance.term import Metrics, Term, request_pair
from essl_jax.errors import UsageError
from essl_jax.losses import common as losses_common
from essl_jax.methods.method import Features, Heads
from essl_jax.models import heads as heads_lib
from essl_jax.models.hypernetwork import Hypernetwork

Pairs = Mapping[str, tuple[jax.Array, jax.Array]]

PARTS = ("invariance", "equivariance", "transformation")
"""The parts of the loss, in the order of its weights."""


@inputs.any_sharding(by_example=False)
def loss(
  invariance1: chex.Array,
  invariance2: chex.Array,
  targets: chex.Array,
  predicted: chex.Array,
  transformations1: chex.Array,
  transformations2: chex.Array,
  *,
  temperature: jax.typing.ArrayLike,
  weights: Mapping[str, Any] | Sequence[Any],
  axis_name: str | None = None,
) -> jax.Array:
  """Self-supervised transformation learning: three NT-Xent losses.

  Two images share the draws of both views. The transformation inferred from
  one image is applied to the other's features.

  Args:
    invariance1: embeddings [N, D1] of the first view.
    invariance2: those of the second view.
    targets: embeddings [M, D2] of both views, stacked.
    predicted: [M, D2], the other view of the same image, moved by the partner's
      transformation.
    transformations1: embeddings [K, D3] of the transformations of one half of
      the images.
    transformations2: those of their partners.
    temperature: divides cosine similarities; above 0, and 0.2 in the paper.
    weights: of the invariance, the equivariance and the transformations, in
      this order or by the names in `PARTS`; 1, 1 and 0.1 in the paper.
    axis_name: mapped axis; all arrays are gathered over its devices.

  Returns:
    The weighted sum, a float32 scalar.

  Raises:
    ValueError: shapes of a pair differ or are not [N, D], all devices together
      have only one row of it, a weight is not a number of at least 0, or the
      temperature is not above 0.

  Example:
    >>> z = jnp.eye(4)
    >>> options = {"temperature": 0.2, "weights": (1, 1, 0.1)}
    >>> print(round(float(loss(z, z, z, z, z, z, **options)), 4))
    0.0832

  Reference:
    Yu et al. 2025 (arXiv 2501.08712), section 3.
  """
  pairs = {
    "invariance": (invariance1, invariance2),
    "equivariance": (targets, predicted),
    "transformation": (transformations1, transformations2),
  }
  given = dict(
    zip(PARTS, losses_common.as_weights(PARTS, weights), strict=True)
  )
  found = _parts(pairs, temperature, axis_name)
  return _weighted(found, given)


def _parts(
  pairs: Pairs, temperature: jax.typing.ArrayLike, axis_name: str | None
) -> dict[str, jax.Array]:
  """NT-Xent of each pair, by name."""
  return {
    name: losses.nt_xent(*pair, temperature=temperature, axis_name=axis_name)
    for name, pair in pairs.items()
  }


def _weighted(
  parts: Mapping[str, jax.Array], weights: Mapping[str, Any]
) -> jax.Array:
  zero = jnp.zeros((), jnp.float32)
  return sum((weights[name] * x for name, x in parts.items()), zero)


def _of_partners(x: jax.Array) -> jax.Array:
  """Swaps the two rows of each pair of rows [N, D]."""
  return x.reshape(-1, 2, x.shape[1])[:, ::-1].reshape(x.shape)


class STL(Term):
  """Infers a transformation from one image and applies it to its partner.

  Images 2i and 2i + 1 of a batch share the draws of both views, for the method
  too. The term does not need the views' parameters.

  Attributes:
    temperature: divides cosine similarities.
    invariance_weight: weight of NT-Xent between the views within this term. The
      paper has 1 and no other loss; here the method's takes its place.
    equivariance_weight: weight of NT-Xent between features of one view and
      those of the other view, moved by the partner's transformation.
    transformation_weight: weight of NT-Xent between the transformations of
      partners.
    projector: widths of the projectors of features.
    transformation_head: widths of the head that infers a transformation from
      the features of two views.
    transformation_projector: widths of the projector of transformations.

  Reference:
    Yu et al. 2025 (arXiv 2501.08712), section 3.
  """

  temperature: bounds.Positive = 0.2
  invariance_weight: bounds.NonNegative = 0.0
  equivariance_weight: bounds.NonNegative = 1.0
  transformation_weight: bounds.NonNegative = 0.1
  projector: bounds.Widths = (512, 128)
  transformation_head: bounds.Widths = (512, 128)
  transformation_projector: bounds.Widths = (512, 128)

  @property
  def weights(self) -> dict[str, float]:
    """The weights above 0, by the name of their part."""
    given = {name: getattr(self, f"{name}_weight") for name in PARTS}
    return {name: x for name, x in given.items() if x}

  def check(self, config: Any) -> None:
    """Refuses a term without parts, which would learn nothing."""
    if not self.weights:
      raise UsageError(
        f"config.{self.section} gives no part a weight above 0: set one, or set"
        f" config.{self.section}.weight to 0"
      )

  def requests(self, views: Any) -> list[ViewRequest]:
    """The method's two views; pairs of images share their draws."""
    return request_pair(views, shared_by=2)

  def make_heads(self, **common: Any) -> dict[str, nn.Module]:
    """Head, hypernetwork and projectors of the parts with a weight."""
    make = lambda widths: heads_lib.projector(
      widths, last_norm="none", **common
    )
    widths = {
      "invariance": self.projector,
      "equivariance": self.projector,
      "transformation": self.transformation_projector,
    }
    made: dict[str, nn.Module] = {
      f"stl_{name}_projector": make(widths[name]) for name in self.weights
    }
    if made.keys() - {"stl_invariance_projector"}:
      made["stl_transformation_head"] = make(self.transformation_head)
    if "equivariance" in self.weights:
      made["stl_hypernetwork"] = Hypernetwork(
        dtype=common["dtype"], dot_general=common["dot_general"]
      )
    return made

  def forward(
    self, heads: Heads, features: Features, targets: Mapping[str, Any]
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The pair of arrays for each part with a weight; see `loss`."""
    del targets
    y1, y2 = features["first"], features["second"]
    if len(y1) % 2:
      raise ValueError(
        f"pairs of images must stay together, got {len(y1)} images"
      )
    found = {}
    if "invariance" in self.weights:
      project = heads["stl_invariance_projector"]
      found["invariance"] = (project(y1), project(y2))
    if self.weights.keys() <= {"invariance"}:
      return found
    head = heads["stl_transformation_head"]
    there, back = (
      head(jnp.concatenate(pair, axis=1)) for pair in ((y1, y2), (y2, y1))
    )
    if "equivariance" in self.weights:
      project = heads["stl_equivariance_projector"]
      move = heads["stl_hypernetwork"]
      seen = [project(y1), project(y2)]
      made = [
        project(move(y2, _of_partners(back))),
        project(move(y1, _of_partners(there))),
      ]
      found["equivariance"] = (jnp.concatenate(seen), jnp.concatenate(made))
    if "transformation" in self.weights:
      project = heads["stl_transformation_projector"]
      first, second = (
        project(jnp.concatenate([there[i::2], back[i::2]])) for i in (0, 1)
      )
      found["transformation"] = (first, second)
    return found

  def loss(
    self,
    outputs: Any,
    targets: Mapping[str, Any],
    *,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, Metrics]:
    """The weighted sum, and each part with a weight."""
    del targets
    parts = _parts(outputs, self.temperature, axis_name)
    metrics = {f"{self.section}_{name}": x for name, x in parts.items()}
    return _weighted(parts, self.weights), metrics


PART = STL
