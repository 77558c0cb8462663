"""Schedules for the learning rate and for a target network's momentum."""

import math

import jax
import jax.numpy as jnp
import optax

from essl_jax import inputs


def warmup_cosine(
  peak: float,
  *,
  warmup_steps: int,
  total_steps: int,
  end_factor: float = 0.0,
  constant_steps: int = 1,
  start: float = 0.0,
) -> optax.Schedule:
  """Linear warm-up, then half a cosine.

  Args:
    peak: the largest learning rate, reached at step `warmup_steps`.
    warmup_steps: number of steps from `start` to the peak.
    total_steps: number of steps of the whole training.
    end_factor: the schedule is `end_factor * peak` at `total_steps`.
    constant_steps: number of steps between changes of the rate. 1 changes it at
      every step; the steps per epoch give one value per epoch.
    start: the learning rate at step 0, if there is a warm-up.

  Returns:
    A schedule from step to float32 learning rate.

  Raises:
    ValueError: not 0 <= warmup_steps < total_steps, constant_steps < 1, not
      0 <= start <= peak, or a peak or end_factor that is not finite.

  Reference:
    E-SSL's recipes; Loshchilov and Hutter 2017 (arXiv 1608.03983).
  """
  if not (math.isfinite(peak) and math.isfinite(end_factor)):
    raise ValueError(
      f"peak and end_factor must be finite, got {peak} and {end_factor}"
    )
  if not 0 <= warmup_steps < total_steps:
    raise ValueError(
      f"warmup_steps must be in [0, total_steps), got {warmup_steps} of"
      f" {total_steps}"
    )
  if constant_steps < 1:
    raise ValueError(f"constant_steps must be at least 1, got {constant_steps}")
  if start and not 0 < start <= peak:
    raise ValueError(f"start must be in [0, peak={peak:g}], got {start:g}")
  share = start / peak if start else 0.0

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    step = inputs.widened(step) // constant_steps * constant_steps
    step = step.astype(jnp.float32)
    warm = share + (1 - share) * step / max(warmup_steps, 1)
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    cosine = (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1))) / 2
    cosine = end_factor + (1 - end_factor) * cosine
    rate = peak * jnp.where(step < warmup_steps, warm, cosine)
    return rate.astype(jnp.float32)

  return schedule


def momentum_coefficient(base: float, steps: int) -> optax.Schedule:
  """Momentum of a target network: rises from `base` to 1 along half a cosine.

  Args:
    base: the coefficient at step 0, in [0, 1].
    steps: number of steps of the whole training; afterwards the coefficient is
      1.

  Returns:
    A schedule from step k to 1 - (1 - base) (cos(pi k / steps) + 1) / 2,
    float32.

  Raises:
    ValueError: base is outside [0, 1], or steps < 1.

  Reference:
    Grill et al. 2020 (arXiv 2006.07733), section 3.2.
  """
  if not 0 <= base <= 1:
    raise ValueError(f"base must be in [0, 1], got {base}")
  if steps < 1:
    raise ValueError(f"steps must be at least 1, got {steps}")
  share = warmup_cosine(1 - base, warmup_steps=0, total_steps=steps)
  return lambda step: 1 - share(step)
