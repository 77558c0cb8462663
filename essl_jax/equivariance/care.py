"""CARE's term: an augmentation rotates all embeddings in the same way."""

from collections.abc import Mapping
import numbers
from typing import Any

import chex
import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from essl_jax import inputs, losses
from essl_jax.augment import ViewRequest
from essl_jax.config import bounds
from essl_jax.equivariance.term import PAIR, Metrics, Term
from essl_jax.losses import common
from essl_jax.methods.method import Features, Heads
from essl_jax.models import heads as heads_lib


@inputs.any_sharding(by_example=False)
def loss(
  embeddings1: chex.Array,
  embeddings2: chex.Array,
  *,
  chunks: int,
  axis_name: str | None = None,
) -> jax.Array:
  """CARE's loss: angles within a chunk are the same under two augmentations.

  The images of a chunk share one draw of each view. A draw may only rotate
  their unit embeddings together, so the inner products must stay the same. The
  loss is (2/N) times the sum over chunks of the squared differences of inner
  products. The gradient flows into both views.

  Args:
    embeddings1: [N, D] of one view, of unit length (`losses.unit_length`):
      they are *not* normalised inside.
    embeddings2: [N, D] of another view, likewise.
    chunks: number of chunks that the whole batch of all devices is divided
      into; all have the same number of consecutive rows.
    axis_name: mapped axis. Embeddings are gathered over its devices if chunks
      are larger than a device's share or do not divide it.

  Returns:
    The loss, a float32 scalar.

  Raises:
    ValueError: the shapes differ or are not [N, D], the chunks do not divide
      the rows, or a chunk would have a single row, which has no angle.

  Example:
    >>> z = jnp.eye(4)
    >>> print(loss(z, z[::-1], chunks=2), loss(z, z[:1] + 0 * z, chunks=2))
    0.0 2.0

  Reference:
    Gupta et al. 2023 (arXiv 2306.13924), equation 3.
  """
  names = "embeddings1 and embeddings2"
  first, second = common.as_pair(embeddings1, embeddings2, names)
  rows = first.shape[0]
  size = _chunk_size(rows, chunks, axis_name)
  if rows % size == 0:
    own = [x.reshape(-1, size, x.shape[1]) for x in (first, second)]
    change = jnp.subtract(*(jax.vmap(common.similarity)(x, x) for x in own))
    # The angle of a row with itself is 0.
    is_pair = ~jnp.eye(size, dtype=bool)[None]
  else:
    change = jnp.subtract(
      *(
        common.similarity(x, common.gather(x, axis_name))
        for x in (first, second)
      )
    )
    own_row = common.first_row(rows, axis_name) + jnp.arange(rows)[:, None]
    row = jnp.arange(change.shape[1])[None, :]
    is_pair = (own_row // size == row // size) & (own_row != row)
  squares = jnp.sum(jnp.where(is_pair, change, 0) ** 2)
  return 2 * squares / rows


def _chunk_size(rows: int, chunks: int, axis_name: str | None) -> int:
  """Rows of a chunk; raises ValueError if chunks do not divide the rows."""
  devices = 1 if axis_name is None else lax.axis_size(axis_name)
  total = rows * devices
  is_whole = isinstance(chunks, numbers.Integral)
  if not is_whole or chunks < 1 or total % chunks or total // chunks < 2:
    raise ValueError(
      f"chunks must divide the {total} rows of the batch into equal parts of 2"
      f" or more, got {chunks}"
    )
  return total // chunks


class CARE(Term):
  """Embeddings keep their angles when a chunk's images share an augmentation.

  The term draws two more views, with the settings of the first and the second;
  the images of a chunk share each draw. The paper uses the method's projector.
  Here the term has its own, so that it works with any method.

  Attributes:
    weight: weight of this loss (lambda in the paper: 0.03 on CIFAR-10, 0.001
      with 4 chunks on CIFAR-100, 0.01 with 8 on STL-10); 0 leaves out the loss
      and its views.
    chunks: number of chunks that a batch is divided into. The images of a
      chunk are consecutive and share their draws.
    projector: widths of the layers, with batch norms and ReLUs between them.

  Reference:
    Gupta et al. 2023 (arXiv 2306.13924), equation 3.
  """

  weight: bounds.NonNegative = 0.03
  chunks: bounds.Count = 16
  projector: bounds.Widths = (2048, 128)

  def check(self, config: Any) -> None:
    """Refuses chunks of single images, which have no angles."""
    if config.batch_size < 2 * self.chunks:
      raise ValueError(
        f"chunks={self.chunks} must have 2 or more images each, and the batch"
        f" has {config.batch_size}"
      )

  def requests(self, views: Any) -> list[ViewRequest]:
    """Two views; the images of a chunk share their draws."""
    return [
      ViewRequest(
        f"{self.section}_{name}",
        getattr(views, name),
        extra=views.extra,
        chunks=self.chunks,
      )
      for name in PAIR
    ]

  def make_heads(self, **common: Any) -> dict[str, nn.Module]:
    """The projector."""
    made = heads_lib.projector(self.projector, last_norm="none", **common)
    return {"care_projector": made}

  def forward(
    self, heads: Heads, features: Features, targets: Mapping[str, Any]
  ) -> list[jax.Array]:
    """Unit-length embeddings [N, D] of each view."""
    del targets
    projector = heads["care_projector"]
    return [
      losses.unit_length(projector(features[f"{self.section}_{name}"]))
      for name in PAIR
    ]

  def loss(
    self,
    outputs: Any,
    targets: Mapping[str, Any],
    *,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, Metrics]:
    """See the function `loss`."""
    del targets
    return loss(*outputs, chunks=self.chunks, axis_name=axis_name), {}


PART = CARE
