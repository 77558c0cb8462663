"""Base classes of methods that compare views of an image in pairs."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax import optim
from essl_jax.augment import ViewRequest
from essl_jax.config import bounds
from essl_jax.methods.method import (
  Features,
  Heads,
  Method,
  Outputs,
  Projector,
)

_FULL = ("first", "second")
_SMALL = "small"
_Small = Annotated[int, bounds.AtLeast(0), bounds.AtMost(100)]


class TwoViews(Method):
  """A method that compares the projections of views in pairs.

  A subclass defines `compare` or its own `loss`. It may add a head `predictor`,
  from projections to predictions.

  Attributes:
    projector: maps features to projections.
    small_views: number of further views of each image, drawn by `views.small`,
      which needs a size and a scale. They are compared with both full views but
      not with each other. A target network does not see them.
  """

  views = (*_FULL, _SMALL)

  projector: Projector = Projector()
  small_views: _Small = 0

  def __post_init__(self) -> None:
    # A subclass that lists its own views decides what to draw from them.
    if not self.small_views and type(self).views is TwoViews.views:
      used = tuple(name for name in self.views if name != _SMALL)
      object.__setattr__(self, "views", used)

  def requests(self, views: Any) -> list[ViewRequest]:
    """Requests the full views, and all small ones in a single request."""
    requests = super().requests(views)
    if not self.small_views:
      return requests
    return [
      dataclasses.replace(x, draws=self.small_views) if x.name == _SMALL else x
      for x in requests
    ]

  def make_heads(self, **common: Any) -> dict[str, nn.Module]:
    """Makes the projector."""
    return {"projector": self.projector.make(**common)}

  def forward(self, heads: Heads, features: Features) -> dict[str, Any]:
    """Returns each view's `projections` [N, D], full views first, then small.

    Also returns their `predictions` if there is a predictor. Small views pass
    through the heads together.
    """
    names = [name for name in TwoViews.views if name in features]
    projections = {name: heads["projector"](features[name]) for name in names}
    found = {"projections": _of_each(projections)}
    if "predictor" in heads:
      predict = heads["predictor"]
      predictions = {name: predict(z) for name, z in projections.items()}
      found["predictions"] = _of_each(predictions)
    return found

  def compare(
    self,
    outputs: Outputs,
    full: int,
    other: int,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    """Computes the loss of two views of the images, in both directions.

    Args:
      outputs: as in `loss`.
      full: index of a full view in `projections`: 0 or 1.
      other: index of another view, full or small.
      axis_name: as in `loss`.

    Returns:
      A float32 scalar. If there is only one direction, from a small view to a
      target network, it counts twice.
    """
    del outputs, full, other, axis_name
    raise NotImplementedError(
      f"{type(self).__name__} must define compare or loss"
    )

  def loss(
    self, outputs: Outputs, *, axis_name: str | None = None
  ) -> jax.Array:
    """Averages the loss over all pairs of a full view and any other view.

    Without small views, this is the loss of the two full views: its two orders
    are equal.

    Args:
      outputs: outputs of all of the device's examples.
      axis_name: mapped axis of the step.

    Returns:
      A float32 scalar.

    Reference:
      Caron et al. 2020 (arXiv 2006.09882), section 3.2.
    """
    count = len(outputs.own["projections"])
    total = 2 * self.compare(outputs, 0, 1, axis_name=axis_name)
    for other in range(len(_FULL), count):
      for full in range(len(_FULL)):
        total += self.compare(outputs, full, other, axis_name=axis_name)
    return total / (2 * (count - 1))


class WithTarget(TwoViews):
  """Predicts a target network's projections of the full views from any view.

  Attributes:
    target_decay: fraction of the target network that a step keeps at the start
      of training; it rises to 1 along half a cosine.
  """

  target_heads: ClassVar[Sequence[str] | None] = ("projector",)
  target_views: ClassVar[Sequence[str] | None] = _FULL

  target_decay: bounds.Unit = 0.99

  def target_momentum(self, step: jax.Array, total_steps: int) -> jax.Array:
    """See `optim.momentum_coefficient`."""
    return optim.momentum_coefficient(self.target_decay, total_steps)(step)

  def towards(
    self,
    predictions: jax.Array,
    targets: jax.Array,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    """Computes the loss in one direction.

    Args:
      predictions: predictions [N, D] for one view.
      targets: the target network's projections [N, D] of another view.
      axis_name: mapped axis of the step.

    Returns:
      A float32 scalar.
    """
    del predictions, targets, axis_name
    raise NotImplementedError(
      f"{type(self).__name__} must define towards or loss"
    )

  def compare(
    self,
    outputs: Outputs,
    full: int,
    other: int,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    """Adds both directions; small views have no target and count twice."""
    predictions = outputs.own["predictions"]
    targets = outputs.target["projections"]
    there = self.towards(predictions[other], targets[full], axis_name=axis_name)
    if other >= len(targets):
      return 2 * there
    return there + self.towards(
      predictions[full], targets[other], axis_name=axis_name
    )


def _of_each(found: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
  """Splits arrays into one [N, D] per view and per draw of the small view."""
  rows = len(found["first"])
  return tuple(
    part for x in found.values() for part in jnp.split(x, len(x) // rows)
  )
