"""Parameter groups of a config: weights, biases, and some heads."""

import functools

from essl_jax import config as config_lib
from essl_jax import optim


def make(
  config: config_lib.Config, steps_per_epoch: int
) -> dict[str, optim.Group]:
  """The parameter groups of a config: see `optim.make_optimizer`.

  Args:
    config: a checked config.
    steps_per_epoch: in which warm-up and cosine are counted.

  Returns:
    `weights`, `biases`, and a group for each head of the method that has a
    rate of its own or is frozen at first.
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
  )
  group = functools.partial(
    optim.Group,
    weight_decay=recipe.weight_decay,
    momentum=recipe.momentum,
    trust_coefficient=recipe.trust_coefficient,
    beta2=recipe.beta2 if recipe.name == "adamw" else None,
  )
  method = config_lib.method(config)
  own = method.learning_rates(peak, schedule(peak))
  frozen = {
    name: min(epochs, config.epochs) * steps_per_epoch
    for name, epochs in method.frozen_heads().items()
  }
  own = {name: schedule(peak) for name in frozen} | own
  return {
    "weights": group(schedule(peak), peak),
    "biases": group(schedule(bias_peak), bias_peak),
    **{
      name: group(
        rate,
        peak if callable(rate) else rate,
        first_step=frozen.get(name, 0),
      )
      for name, rate in own.items()
    },
  }
