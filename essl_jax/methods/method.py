"""The base class of methods, and the outputs that their losses get."""

import abc
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from essl_jax import losses
from essl_jax.augment import DrawnView, ViewRequest
from essl_jax.config import bounds
from essl_jax.config.parts import Part
from essl_jax.models import heads

Heads = Mapping[str, Callable[..., jax.Array]]
"""The heads by name, bound to their parameters and to the mode of training:
functions of an array, or of several where a head is such a module."""
Features = Mapping[str, jax.Array]
"""The encoder's features [N, F] of each view, by its name."""


class Outputs(NamedTuple):
  """What a method's loss is of.

  Attributes:
    own: what `Method.forward` has returned.
    target: what `Method.forward_target` has returned for the target network,
      which no gradient reaches; None without one.
    extra: the method's own state, from `Method.initial_extra`.
    step: int32 scalar, the steps done before this one.
    total_steps: of the whole training.
    steps_per_epoch: of each epoch.
    parameters: how the views were drawn that a part asks this of
      (`ViewRequest.parameters`), by name.
  """

  own: Any
  target: Any = None
  extra: Any = None
  step: jax.Array | int = 0
  total_steps: int = 1
  steps_per_epoch: int = 1
  parameters: Mapping[str, DrawnView] = MappingProxyType({})

  @property
  def epoch(self) -> jax.Array | int:
    """The epoch of this step, counted from 0."""
    return self.step // self.steps_per_epoch


class Method(Part):
  """How the networks learn without labels; its fields are its config.

  A subclass states heads, what they compute and a loss; all else has a default.

  Attributes:
    views: names of the views in `config.views` that it asks for; an instance,
      whose fields are known, may have fewer than its class.
    target_heads: heads that the target network has beside the encoder, an
      exponential moving average of the trained ones; None has no target.
    evaluated_network: which network evaluations measure where the config does
      not say: `online`, the trained one, or `target`.
    target_views: names of the requests that the target network encodes; None
      encodes all.
  """

  views: ClassVar[Sequence[str]] = ("first", "second")
  target_heads: ClassVar[Sequence[str] | None] = None
  evaluated_network: ClassVar[Literal["online", "target"]] = "online"
  target_views: ClassVar[Sequence[str] | None] = None

  def check(self, config: Any) -> None:
    """Raises UsageError or ValueError for a config that it cannot train."""

  def requests(self, views: Any) -> list[ViewRequest]:
    """The views that it asks for, in the order in which they are encoded.

    Args:
      views: `config.views`: `augment.View`s by name.

    Returns:
      One request for each of `self.views`; a subclass may ask for several
      draws of one of them, for plain ones, for draws that images share, or for
      the parameters of views.
    """
    return [
      ViewRequest(name, getattr(views, name), extra=views.extra)
      for name in self.views
    ]

  @abc.abstractmethod
  def make_heads(self, **common: Any) -> Mapping[str, nn.Module]:
    """Its heads by name.

    Args:
      **common: `dtype`, `axis_name` (over which batch norms share statistics)
        and `dot_general`, as of `models.heads`.

    Returns:
      Modules that map [N, D] to [N, D']; their names are those of their
      parameters.
    """

  @abc.abstractmethod
  def forward(self, heads: Heads, features: Features) -> Any:
    """What the loss needs of the features.

    Args:
      heads: of `make_heads`, each a function of an array.
      features: of the views that were asked for.

    Returns:
      A tree of arrays that lead with as many rows as the features.
    """

  def forward_target(self, heads: Heads, features: Features) -> Any:
    """Likewise of the target network's features; `forward` if not stated."""
    return self.forward(heads, features)

  def target_momentum(self, step: jax.Array, total_steps: int) -> jax.Array:
    """What part of the target's parameters stays after a step, float32."""
    raise ValueError(
      f"{type(self).__name__} has target_heads and no target_momentum"
    )

  def initial_extra(self, params: Any) -> Any:
    """A state of its own, a tree of arrays; None keeps none.

    Args:
      params: of the networks, by name.
    """
    del params

  @abc.abstractmethod
  def loss(
    self, outputs: Outputs, *, axis_name: str | None = None
  ) -> jax.Array:
    """The loss of one device's examples, to be differentiated and averaged.

    Args:
      outputs: of all its examples.
      axis_name: mapped axis of the step, over which negatives or statistics
        are shared.

    Returns:
      A float32 scalar, the mean over this device's examples.
    """

  def metrics(
    self, outputs: Outputs, mean: Callable[[Any], Any]
  ) -> dict[str, jax.Array]:
    """Figures to log beside the losses, float32 scalars.

    Args:
      outputs: as for `loss`.
      mean: averages over devices.

    Returns:
      `embedding_std` where `forward` returns `projections`.
    """
    if not isinstance(outputs.own, Mapping) or "projections" not in outputs.own:
      return {}
    return {"embedding_std": embedding_std(outputs.own["projections"][0], mean)}

  def learning_rates(
    self, peak: float, schedule: optax.Schedule
  ) -> dict[str, optax.ScalarOrSchedule]:
    """Heads that have another learning rate than all else.

    Args:
      peak: the largest rate of the recipe.
      schedule: step to rate of the recipe.

    Returns:
      A rate, or step to rate, by the head's name.
    """
    del peak, schedule
    return {}

  def frozen_heads(self) -> dict[str, int]:
    """Heads that begin to learn later: epochs without it, by the head's name.

    Until then neither gradient nor weight decay nor momentum moves them.
    """
    return {}

  def after_update(
    self, params: Any, outputs: Outputs, *, axis_name: str | None = None
  ) -> tuple[Any, Any]:
    """What follows an update.

    Args:
      params: updated ones, by network.
      outputs: of the step.
      axis_name: mapped axis of the step.

    Returns:
      The parameters and the method's own state for the next step.
    """
    del axis_name
    return params, outputs.extra


@dataclasses.dataclass(frozen=True)
class Projector:
  """The projector of a method.

  Attributes:
    widths: width of each layer.
    last_norm: norm after the last layer: `batch`, `batch_not_affine` or `none`.
    bias: whether the linear layers have biases.
  """

  widths: bounds.Widths = (2048, 2048)
  last_norm: Literal["batch", "batch_not_affine", "none"] = "batch_not_affine"
  bias: bool = False

  def make(self, **common: Any) -> heads.MLP:
    """The module; arguments as for `Method.make_heads`."""
    return heads.projector(
      self.widths, last_norm=self.last_norm, bias=self.bias, **common
    )


def embedding_std(
  embeddings: jax.Array, mean: Callable[[Any], Any] = lambda x: x
) -> jax.Array:
  """Mean per-dimension deviation of unit-length embeddings [N, D].

  1/sqrt(D) where they spread over the sphere, 0 where they have collapsed.
  Zeros do not deviate from the mean of the others.

  Args:
    embeddings: [N, D].
    mean: averages over devices.

  Returns:
    A float32 scalar.

  Reference:
    Chen and He 2021 (arXiv 2011.10566), figure 2.
  """
  z = losses.unit_length(embeddings)
  directed = jnp.mean(jnp.any(z != 0, axis=-1), dtype=jnp.float32)
  moments = mean((jnp.mean(z, axis=0), jnp.mean(z * z, axis=0), directed))
  # Zeros do not deviate from the mean of the others.
  part = jnp.where(moments[2] > 0, moments[2], 1)
  variance = jnp.maximum(moments[1] - moments[0] ** 2 / part, 0)
  return jnp.mean(jnp.sqrt(variance))
