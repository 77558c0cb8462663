"""The base class of methods, and the outputs that their losses receive."""

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
"""The heads by name, bound to their parameters and to training or evaluation
mode: functions of one array, or of several if the head's module takes several.
"""
Features = Mapping[str, jax.Array]
"""The encoder's features [N, F] of each view, by view name."""


class Outputs(NamedTuple):
  """Everything that a method's loss may use.

  Attributes:
    own: the result of `Method.forward`.
    target: the result of `Method.forward_target` for the target network,
      without a gradient; None if there is no target network.
    extra: the method's own state, from `Method.initial_extra`.
    step: int32 scalar, the number of steps before this one.
    total_steps: number of steps of the whole training.
    steps_per_epoch: number of steps per epoch.
    parameters: how each view was drawn, by name, for requests with
      `ViewRequest.parameters` set.
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

  A subclass defines heads, what they compute, and a loss. The rest has
  defaults.

  Attributes:
    views: names of the views in `config.views` that it requests. An instance
      may have fewer than its class, depending on its fields.
    target_heads: heads of the target network, which is an exponential moving
      average of the trained encoder and heads; None means no target network.
    evaluated_network: the network that evaluations measure by default:
      `online`, the trained one, or `target`.
    target_views: names of the requests that the target network encodes; None
      means all.
  """

  views: ClassVar[Sequence[str]] = ("first", "second")
  target_heads: ClassVar[Sequence[str] | None] = None
  evaluated_network: ClassVar[Literal["online", "target"]] = "online"
  target_views: ClassVar[Sequence[str] | None] = None

  def check(self, config: Any) -> None:
    """Raises UsageError or ValueError for a config that it cannot train."""

  def requests(self, views: Any) -> list[ViewRequest]:
    """Returns the views that it needs, in the order of encoding.

    Args:
      views: `config.views`: `augment.View`s by name.

    Returns:
      One request for each of `self.views`. A subclass may request several draws
      of a view, plain views, draws that images share, or view parameters.
    """
    return [
      ViewRequest(name, getattr(views, name), extra=views.extra)
      for name in self.views
    ]

  @abc.abstractmethod
  def make_heads(self, **common: Any) -> Mapping[str, nn.Module]:
    """Makes its heads.

    Args:
      **common: `dtype`, `axis_name` (over which batch norms share statistics)
        and `dot_general`, as in `models.heads`.

    Returns:
      Modules by name that map [N, D] to [N, D']; their parameters are stored
      under the same names.
    """

  @abc.abstractmethod
  def forward(self, heads: Heads, features: Features) -> Any:
    """Computes what the loss needs from the features.

    Args:
      heads: the heads of `make_heads`, each a function of an array.
      features: features of the requested views.

    Returns:
      A tree of arrays with as many rows as the features.
    """

  def forward_target(self, heads: Heads, features: Features) -> Any:
    """Like `forward`, for the target network; by default the same."""
    return self.forward(heads, features)

  def target_momentum(self, step: jax.Array, total_steps: int) -> jax.Array:
    """Returns the fraction of the target that a step keeps, float32."""
    raise ValueError(
      f"{type(self).__name__} has target_heads, so it must define"
      " target_momentum"
    )

  def initial_extra(self, params: Any) -> Any:
    """Returns the method's own state, a tree of arrays; None means no state.

    Args:
      params: parameters of the networks, by name.
    """
    del params

  @abc.abstractmethod
  def loss(
    self, outputs: Outputs, *, axis_name: str | None = None
  ) -> jax.Array:
    """Computes the loss of one device's examples.

    The step differentiates it and averages over devices.

    Args:
      outputs: outputs of all of the device's examples.
      axis_name: mapped axis of the step, over which negatives or statistics
        are shared.

    Returns:
      A float32 scalar, the mean over this device's examples.
    """

  def metrics(
    self, outputs: Outputs, mean: Callable[[Any], Any]
  ) -> dict[str, jax.Array]:
    """Computes figures to log beside the losses, float32 scalars.

    Args:
      outputs: as in `loss`.
      mean: averages over devices.

    Returns:
      `embedding_std` if `forward` returns `projections`.
    """
    if not isinstance(outputs.own, Mapping) or "projections" not in outputs.own:
      return {}
    return {"embedding_std": embedding_std(outputs.own["projections"][0], mean)}

  def learning_rates(
    self, peak: float, schedule: optax.Schedule
  ) -> dict[str, optax.ScalarOrSchedule]:
    """Returns learning rates of heads that do not follow the schedule.

    Args:
      peak: the recipe's largest rate.
      schedule: the recipe's schedule, from step to rate.

    Returns:
      A rate or a schedule by head name.
    """
    del peak, schedule
    return {}

  def frozen_heads(self) -> dict[str, int]:
    """Returns for how many epochs heads stay frozen at first, by head name.

    Until then, neither gradient nor weight decay nor momentum changes them.
    """
    return {}

  def after_update(
    self, params: Any, outputs: Outputs, *, axis_name: str | None = None
  ) -> tuple[Any, Any]:
    """Runs after an update.

    Args:
      params: updated parameters by network.
      outputs: outputs of the step.
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
    """Makes the module; arguments as in `Method.make_heads`."""
    return heads.projector(
      self.widths, last_norm=self.last_norm, bias=self.bias, **common
    )


def embedding_std(
  embeddings: jax.Array, mean: Callable[[Any], Any] = lambda x: x
) -> jax.Array:
  """Averages the standard deviations of unit-length embeddings' dimensions.

  The result is 1/sqrt(D) if embeddings spread over the sphere and 0 if they
  have collapsed. Rows of zeros do not count as deviations from the mean.

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
  part = jnp.where(moments[2] > 0, moments[2], 1)
  variance = jnp.maximum(moments[1] - moments[0] ** 2 / part, 0)
  return jnp.mean(jnp.sqrt(variance))
