"""How a linear classifier is trained: optimiser, schedule, epochs."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import optax

from essl_jax import optim
from essl_jax.devices import parallel
from essl_jax.errors import UsageError

_TRUST_COEFFICIENT = 0.001


@dataclasses.dataclass(frozen=True)
class Recipe:
  """The training of a classifier; hashable, so static under `jit`.

  Attributes:
    epochs: passes over the training images.
    batch_size: images per step, over all devices.
    learning_rate: rate of the linear layer at the start of a cosine to 0.
    optimizer: `sgd`, or `lars`, which adapts both weights and bias.
    momentum: momentum of the gradient.
    weight_decay: added to the gradient.
    update_rate_every: `step` or `epoch`.
    repetitions: number of trainings, which differ in weights, order and
      augmentation.
    initial_std: standard deviation of the layer's normal weights, with biases
      of 0; None is PyTorch's default, see `linear_layer.initial_layer`.
  """

  epochs: int = 100
  batch_size: int = 256
  learning_rate: float = 30.0
  optimizer: str = "sgd"
  momentum: float = 0.9
  weight_decay: float = 0.0
  update_rate_every: str = "step"
  repetitions: int = 5
  initial_std: float | None = None

  def __post_init__(self) -> None:
    for name in ("epochs", "batch_size", "repetitions"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)} must be positive")

  @classmethod
  def of(cls, settings: Any) -> "Recipe":
    """The recipe with the fields of another dataclass, such as the config's."""
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: getattr(settings, name) for name in names})

  def make_optimizer(
    self, steps_per_epoch: int, learning_rate: float | None = None
  ) -> optax.GradientTransformation:
    """The optimiser with its schedule.

    Args:
      steps_per_epoch: length of an epoch, for the schedule.
      learning_rate: replaces the recipe's.

    Returns:
      The gradient transformation.

    Reference:
      For `lars`, SimSiam's linear classification (arXiv 2011.10566, appendix
      A), whose LARC adapts every parameter.
    """
    rate = self.learning_rate if learning_rate is None else learning_rate
    is_per_epoch = self.update_rate_every == "epoch"
    schedule = optim.warmup_cosine(
      rate,
      warmup_steps=0,
      total_steps=self.epochs * steps_per_epoch,
      constant_steps=steps_per_epoch if is_per_epoch else 1,
    )
    decay, momentum = self.weight_decay, self.momentum
    if self.optimizer == "sgd":
      return optim.sgd(schedule, weight_decay=decay, momentum=momentum)
    return optim.lars(
      schedule,
      weight_decay=decay,
      momentum=momentum,
      trust_coefficient=_TRUST_COEFFICIENT,
      mask=lambda params: jax.tree.map(lambda _: True, params),
    )

  def describe(self) -> dict[str, Any]:
    """The recipe's entries of a protocol in `results.json`."""
    fields = dataclasses.asdict(self)
    every = fields.pop("update_rate_every")
    return fields | {"schedule": f"cosine to 0 per {every}"}

  def fitted(self, examples: int, mesh: Mesh, field: str) -> "Recipe":
    """Fits the batch size to the number of examples and devices.

    Args:
      examples: number of training images; fewer than a batch are one batch,
        rounded down to a multiple of the devices.
      mesh: the devices.
      field: config field of the batch size, for messages.

    Returns:
      The recipe for this set.

    Raises:
      UsageError: the devices cannot divide the batch, or there are more devices
        than images.
    """
    parallel.check_batch_size(self.batch_size, mesh, field=field)
    devices = mesh.size
    size = min(self.batch_size, examples - examples % devices)
    if not size:
      raise UsageError(
        f"{examples} training images are too few for {devices} devices: use"
        " more images or fewer devices"
      )
    return dataclasses.replace(self, batch_size=size)
