"""Learning-rate schedules and optimisers."""

import jax
import jax.numpy as jnp
import optax


def warmup_cosine(
  peak: float, *, warmup_steps: int, total_steps: int
) -> optax.Schedule:
  """Linear warm-up from 0, then half a cosine to 0, one value a step.

  Args:
    peak: the largest learning rate, reached at step `warmup_steps`.
    warmup_steps: steps from 0 to the peak.
    total_steps: steps of the whole training; the schedule is 0 there.

  Returns:
    A schedule: step to float32 learning rate.

  Raises:
    ValueError: not 0 <= warmup_steps < total_steps.

  Reference:
    E-SSL's CIFAR-10 recipe; Loshchilov and Hutter 2017 (arXiv 1608.03983).
  """
  if not 0 <= warmup_steps < total_steps:
    raise ValueError(
      f"warmup_steps must be in [0, total_steps), got {warmup_steps} of"
      f" {total_steps}"
    )

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    warm = step / max(warmup_steps, 1)
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    cosine = (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1))) / 2
    return peak * jnp.where(step < warmup_steps, warm, cosine)

  return schedule


def sgd(
  learning_rate: optax.ScalarOrSchedule,
  *,
  weight_decay: float,
  momentum: float,
) -> optax.GradientTransformation:
  """PyTorch's SGD: decay joins the gradient before the momentum.

  Args:
    learning_rate: a number or a schedule of the step.
    weight_decay: on every parameter.
    momentum: of the decayed gradient's running sum.

  Returns:
    The gradient transformation.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.sgd(learning_rate, momentum=momentum),
  )


def make_optimizer(
  schedule: optax.Schedule,
  *,
  predictor_learning_rate: float,
  weight_decay: float,
  momentum: float,
) -> optax.GradientTransformation:
  """SGD on every network; SimSiam's predictor keeps a constant rate.

  Args:
    schedule: learning rate of everything but the predictor.
    predictor_learning_rate: of the tree's `predictor` branch, if any.
    weight_decay: on every parameter.
    momentum: of SGD.

  Returns:
    A transformation of the parameters' tree of `methods.Networks`.

  Reference:
    Chen and He 2021 (arXiv 2011.10566), section 4.2, "Predictor".
  """
  common = {"weight_decay": weight_decay, "momentum": momentum}
  label = lambda name: "constant" if name == "predictor" else "scheduled"
  return optax.partition(
    {
      "scheduled": sgd(schedule, **common),
      "constant": sgd(predictor_learning_rate, **common),
    },
    lambda params: {name: label(name) for name in params},
  )
