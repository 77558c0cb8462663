"""Learning-rate schedules, LARS, and optimisers with parameter groups."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax


def warmup_cosine(
  peak: float,
  *,
  warmup_steps: int,
  total_steps: int,
  end_factor: float = 0.0,
  constant_steps: int = 1,
) -> optax.Schedule:
  """Linear warm-up from 0, then half a cosine.

  Args:
    peak: the largest learning rate, reached at step `warmup_steps`.
    warmup_steps: steps from 0 to the peak.
    total_steps: steps of the whole training.
    end_factor: the schedule is `end_factor * peak` at `total_steps`.
    constant_steps: the rate changes every so many steps; 1 is every step, the
      steps of an epoch make it one value an epoch.

  Returns:
    A schedule: step to float32 learning rate.

  Raises:
    ValueError: not 0 <= warmup_steps < total_steps, or constant_steps < 1.

  Reference:
    E-SSL's recipes; Loshchilov and Hutter 2017 (arXiv 1608.03983).
  """
  if not 0 <= warmup_steps < total_steps:
    raise ValueError(
      f"warmup_steps must be in [0, total_steps), got {warmup_steps} of"
      f" {total_steps}"
    )
  if constant_steps < 1:
    raise ValueError(f"constant_steps must be at least 1, got {constant_steps}")

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    step = jnp.asarray(step) // constant_steps * constant_steps
    step = step.astype(jnp.float32)
    warm = step / max(warmup_steps, 1)
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    cosine = (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1))) / 2
    cosine = end_factor + (1 - end_factor) * cosine
    return peak * jnp.where(step < warmup_steps, warm, cosine)

  return schedule


def is_matrix(params: chex.ArrayTree) -> Any:
  """True for every array but biases and the parameters of norms."""
  return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


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


def lars(
  learning_rate: optax.ScalarOrSchedule,
  *,
  weight_decay: float,
  momentum: float = 0.9,
  trust_coefficient: float = 0.001,
  mask: Any | Callable[[chex.ArrayTree], Any] = is_matrix,
) -> optax.GradientTransformation:
  """Layer-wise adaptive rates, as SimCLR and Barlow Twins train with.

  Each array's decayed gradient is scaled to `trust_coefficient` times the norm
  of the array, then summed with momentum, then multiplied by the learning rate.
  `optax.lars` multiplies before the momentum, which is another optimiser as
  soon as the rate changes.

  Args:
    learning_rate: a number or a schedule of the step.
    weight_decay: added to the gradient where `mask` is true.
    momentum: of the running sum.
    trust_coefficient: eta.
    mask: a tree of booleans, or a function of the parameters that makes one:
      what is decayed and adapted. All but biases and norms by default.

  Returns:
    The gradient transformation.

  Reference:
    You et al. 2017 (arXiv 1708.03888); Chen et al. 2020 (arXiv 2002.05709),
    appendix B.9.
  """
  adapt = optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient)
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask),
    optax.masked(adapt, mask),
    optax.trace(momentum),
    optax.scale_by_learning_rate(learning_rate),
  )


@dataclasses.dataclass(frozen=True)
class Group:
  """Parameters that share an optimiser.

  Attributes:
    learning_rate: a number, or a schedule of the step.
    peak: its largest value.
    weight_decay: added to the gradient.
    momentum: of the running sum.
    trust_coefficient: of LARS, which biases and norms are spared; None is SGD.
  """

  learning_rate: optax.ScalarOrSchedule
  peak: float
  weight_decay: float
  momentum: float
  trust_coefficient: float | None = None

  @property
  def transformation(self) -> optax.GradientTransformation:
    """The group's optimiser."""
    common = {"weight_decay": self.weight_decay, "momentum": self.momentum}
    if self.trust_coefficient is None:
      return sgd(self.learning_rate, **common)
    return lars(
      self.learning_rate, trust_coefficient=self.trust_coefficient, **common
    )

  def describe(self, is_matrix: bool) -> str:
    """The group's effective settings for matrices, or for all else."""
    constant = "" if callable(self.learning_rate) else " (constant)"
    adapted = self.trust_coefficient is not None
    spared = adapted and not is_matrix
    decay = 0.0 if spared else self.weight_decay
    adaptation = (
      f"LARS {self.trust_coefficient:g}" if adapted and is_matrix else "none"
    )
    return (
      f"learning rate {self.peak:g}{constant}, weight decay {decay:g},"
      f" adaptation {adaptation}"
    )


def label(params: Mapping[str, Any]) -> dict[str, Any]:
  """Sorts the parameters of `networks.Networks` into the three groups.

  Args:
    params: by network.

  Returns:
    The same tree of names: `predictor` for all of SimSiam's predictor,
    elsewhere `weights`, or `biases` for biases and the parameters of norms.
  """
  kind = lambda x: "weights" if jnp.ndim(x) > 1 else "biases"
  labels = {name: jax.tree.map(kind, part) for name, part in params.items()}
  if "predictor" in labels:
    labels["predictor"] = jax.tree.map(
      lambda _: "predictor", labels["predictor"]
    )
  return labels


def make_optimizer(groups: Mapping[str, Group]) -> optax.GradientTransformation:
  """One optimiser for each group of the parameters of `networks.Networks`.

  Args:
    groups: `weights`, `biases` and `predictor`; see `label`. SimSiam's
      predictor has a group so that it can keep a constant rate.

  Returns:
    The gradient transformation.

  Reference:
    Chen and He 2021 (arXiv 2011.10566), section 4.2, "Predictor".
  """
  parts = {name: group.transformation for name, group in groups.items()}
  return optax.partition(parts, label)


def describe_groups(
  groups: Mapping[str, Group], params: Mapping[str, Any]
) -> list[str]:
  """One line for each group that has parameters, with what applies to them.

  Args:
    groups: as in `make_optimizer`.
    params: of `networks.Networks`.

  Returns:
    Lines such as `weights: 23,454,912 parameters, learning rate 4.8, weight
    decay 1e-06, adaptation LARS 0.001`.
  """
  sizes: dict[tuple[str, bool], int] = {}
  labels = jax.tree.leaves(label(params))
  for name, x in zip(labels, jax.tree.leaves(params), strict=True):
    key = (name, jnp.ndim(x) > 1)
    sizes[key] = sizes.get(key, 0) + x.size
  lines = []
  for (name, matrix), size in sorted(sizes.items(), reverse=True):
    part = " weights" if matrix else " biases and norms"
    title = f"predictor{part}" if name == "predictor" else part.strip()
    lines.append(
      f"{title}: {size:,} parameters, {groups[name].describe(matrix)}"
    )
  return lines
