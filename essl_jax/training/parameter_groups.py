"""Parameter groups of a config: weights, biases, and some heads."""

from collections.abc import Sequence
import functools

from essl_jax import config as config_lib
from essl_jax import optim
from essl_jax.errors import told


def make(
  config: config_lib.Config, steps_per_epoch: int
) -> dict[str, optim.Group]:
  """Makes the parameter groups of a config; see `optim.make_optimizer`.

  Args:
    config: a checked config.
    steps_per_epoch: converts the epochs of warm-up and cosine to steps.

  Returns:
    `weights`, `biases`, and a group for each head of the method that has its
    own rate or starts to learn later.

  Raises:
    UsageError: the warm-up begins above a peak.
  """
  recipe = config.optimizer
  scale = config.batch_size / 256 if recipe.scale_with_batch else 1.0
  peak = recipe.learning_rate * scale
  bias_peak = peak
  if recipe.bias_learning_rate is not None:
    bias_peak = recipe.bias_learning_rate * scale
  schedule = functools.partial(
    optim.warmup_cosine,
    warmup_steps=recipe.warmup_epochs * steps_per_epoch,
    total_steps=max(config.epochs, 1) * steps_per_epoch,
    end_factor=recipe.end_factor,
    constant_steps=steps_per_epoch
    if recipe.update_rate_every == "epoch"
    else 1,
    start=recipe.warmup_from,
  )
  group = functools.partial(
    optim.Group,
    weight_decay=recipe.weight_decay,
    momentum=recipe.momentum,
    trust_coefficient=recipe.trust_coefficient,
    beta2=recipe.beta2 if recipe.name == "adamw" else None,
    clip_rate=recipe.clip_rate,
  )
  with told("config.optimizer.warmup_from"):
    schedules = schedule(peak), schedule(bias_peak)
  method = config_lib.method(config)
  own = method.learning_rates(peak, schedules[0])
  frozen = {
    name: min(epochs, config.epochs) * steps_per_epoch
    for name, epochs in method.frozen_heads().items()
  }
  own = dict.fromkeys(frozen, schedules[0]) | own
  return {
    "weights": group(schedules[0], peak),
    "biases": group(schedules[1], bias_peak),
    **{
      name: group(
        rate,
        peak if callable(rate) else rate,
        first_step=frozen.get(name, 0),
      )
      for name, rate in own.items()
    },
  }


def clip(
  config: config_lib.Config, aside: Sequence[str] = ()
) -> optim.Clip | None:
  """Says how a config clips gradients; None if it does not.

  Args:
    config: a checked config.
    aside: networks trained alongside, whose losses send no gradient to the
      others.

  Returns:
    The last argument of `optim.make_optimizer`.
  """
  recipe = config.optimizer
  if recipe.clip_gradients is None:
    return None
  return optim.Clip(recipe.clip_gradients, recipe.clip_each_array, tuple(aside))
