"""Groups of parameters, each with its own optimiser."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from essl_jax.optim import optimizers


@dataclasses.dataclass(frozen=True)
class Group:
  """Parameters that share an optimiser: SGD, LARS or AdamW.

  Attributes:
    learning_rate: a number, or a schedule from step to rate.
    peak: the largest learning rate.
    weight_decay: added to the gradient, or decoupled with AdamW.
    momentum: momentum of the running sum, or AdamW's beta1.
    trust_coefficient: selects LARS with this coefficient. LARS does not decay
      or adapt biases and norms.
    beta2: selects AdamW with this beta2. AdamW decays only kernels.
    clip_rate: turns LARS into LARC: see `optimizers.lars`.
    first_step: until this step, parameters keep their values, without gradient,
      decay and momentum. The schedule counts these steps too.

  Raises:
    ValueError: trust_coefficient and beta2 are both given.
  """

  learning_rate: optax.ScalarOrSchedule
  peak: float
  weight_decay: float
  momentum: float
  trust_coefficient: float | None = None
  beta2: float | None = None
  clip_rate: bool = False
  first_step: int = 0

  def __post_init__(self) -> None:
    given = (self.trust_coefficient, self.beta2)
    if None not in given:
      raise ValueError(
        f"give trust_coefficient or beta2, not both, got {given}"
      )

  @property
  def transformation(self) -> optax.GradientTransformation:
    """The group's optimiser."""
    if not self.first_step:
      return self._make(self.learning_rate)
    rate = self.learning_rate
    if callable(schedule := rate):  # the optimiser counts from `first_step`
      rate = lambda count: schedule(count + self.first_step)
    return optax.conditionally_mask(
      self._make(rate), lambda step: step >= self.first_step
    )

  def _make(self, rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    common = {"weight_decay": self.weight_decay}
    if self.beta2 is not None:
      betas = {"beta1": self.momentum, "beta2": self.beta2}
      return optimizers.adamw(rate, **common, **betas)
    common["momentum"] = self.momentum
    if self.trust_coefficient is None:
      return optimizers.sgd(rate, **common)
    return optimizers.lars(
      rate,
      trust_coefficient=self.trust_coefficient,
      clip_rate=self.clip_rate,
      **common,
    )

  def mask(self, params: chex.ArrayTree) -> Any:
    """Returns booleans: where weight decay and LARS's adaptation apply."""
    if self.beta2 is not None:
      return optimizers.is_kernel(params)
    if self.trust_coefficient is not None:
      return optimizers.is_matrix(params)
    return jax.tree.map(lambda _: True, params)

  def describe(self, is_decayed: bool) -> str:
    """Describes the settings where the group's mask is true or false."""
    constant = "" if callable(self.learning_rate) else " (constant)"
    decay = self.weight_decay if is_decayed else 0.0
    adaptation = "none"
    if self.beta2 is not None:
      adaptation = f"AdamW ({self.momentum:g}, {self.beta2:g})"
    elif self.trust_coefficient is not None and is_decayed:
      name = "LARC" if self.clip_rate else "LARS"
      adaptation = f"{name} {self.trust_coefficient:g}"
    frozen = ""
    if self.first_step:
      frozen = f", frozen for {self.first_step:,} steps"
    return (
      f"learning rate {self.peak:g}{constant}, weight decay {decay:g},"
      f" adaptation {adaptation}{frozen}"
    )


def label(
  params: Mapping[str, Any],
  heads: Sequence[str] = (),
  frozen: Sequence[str] = (),
) -> dict[str, Any]:
  """Sorts the parameters of several networks into groups.

  Args:
    params: parameters by network.
    heads: networks that form a group each.
    frozen: paths of parameters that are not trained, such as
      `encoder/patch_embed`.

  Returns:
    A tree of group names: `frozen` for frozen parameters, the network's name in
    the networks of `heads`, `biases` for other biases and norms, and `weights`
    for the rest.

  Raises:
    ValueError: no parameter has a path in `frozen`.
  """
  branches = tuple(f"{path}/" for path in frozen)
  keystr = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
  leaves = jax.tree_util.tree_leaves_with_path(params)
  names = [f"{keystr(path)}/" for path, _ in leaves]
  for branch in branches:
    if not any(name.startswith(branch) for name in names):
      there = ", ".join(name[:-1] for name in names)
      raise ValueError(
        f"no parameter to freeze is named {branch[:-1]}; there are: {there}"
      )

  def group(path: Any, x: Any) -> str:
    name = f"{keystr(path)}/"
    if name.startswith(branches):
      return "frozen"
    network = name.partition("/")[0]
    if network in heads:
      return network
    return "weights" if jnp.ndim(x) > 1 else "biases"

  return jax.tree_util.tree_map_with_path(group, params)


@dataclasses.dataclass(frozen=True)
class Clip:
  """Clips gradients to a maximum norm.

  Attributes:
    norm: the largest norm allowed.
    each: True clips every array by itself, False all arrays together.
    aside: networks to leave out of norm and clipping, because their gradients
      do not affect the others.
  """

  norm: float
  each: bool = False
  aside: tuple[str, ...] = ()

  @property
  def transformation(self) -> optax.GradientTransformation:
    """Clips the gradients of several networks, by network."""

    def shorten(x: jax.Array, norm: jax.Array) -> jax.Array:
      return x * (self.norm / jnp.maximum(norm, self.norm))

    def update(gradients: Any, params: Any = None) -> Any:
      del params
      clipped = {k: x for k, x in gradients.items() if k not in self.aside}
      if self.each:
        clipped = jax.tree.map(
          lambda x: shorten(x, optax.tree.norm(x)), clipped
        )
      else:
        norm = optax.tree.norm(clipped)
        clipped = jax.tree.map(lambda x: shorten(x, norm), clipped)
      return {name: clipped.get(name, x) for name, x in gradients.items()}

    return optax.stateless(update)

  def describe(self) -> str:
    """Describes the clipping, for the first lines of a run."""
    arrays = "each array" if self.each else "all arrays together"
    return f"gradients clipped to a norm of {self.norm:g}, {arrays}"


def make_optimizer(
  groups: Mapping[str, Group],
  frozen: Sequence[str] = (),
  clip: Clip | None = None,
) -> optax.GradientTransformation:
  """Makes an optimiser with parameter groups for several networks.

  Args:
    groups: `weights`, `biases`, and one group per network with its own
      settings, by its name, such as SimSiam's predictor with its constant rate.
    frozen: paths of parameters that keep their values, without decay; see
      `label`.
    clip: clips the gradients before everything else; None does not.

  Returns:
    The gradient transformation.
  """
  parts = {name: group.transformation for name, group in groups.items()}
  if frozen:
    parts["frozen"] = optax.set_to_zero()
  heads = _heads(groups)
  optimizer = optax.partition(
    parts, functools.partial(label, heads=heads, frozen=frozen)
  )
  if clip is None:
    return optimizer
  return optax.chain(clip.transformation, optimizer)


def _heads(groups: Mapping[str, Group]) -> tuple[str, ...]:
  return tuple(name for name in groups if name not in ("weights", "biases"))


def describe_groups(
  groups: Mapping[str, Group],
  params: Mapping[str, Any],
  frozen: Sequence[str] = (),
) -> list[str]:
  """Describes each group that has parameters in one line.

  Args:
    groups: as in `make_optimizer`.
    params: parameters by network.
    frozen: as in `make_optimizer`.

  Returns:
    Lines such as `weights: 23,454,912 parameters, learning rate 4.8, weight
    decay 1e-06, adaptation LARS 0.001`.
  """
  masks = {k: jax.tree.leaves(g.mask(params)) for k, g in groups.items()}
  labels = jax.tree.leaves(label(params, _heads(groups), frozen))
  sizes: dict[tuple[str, str], int] = {}
  for i, x in enumerate(jax.tree.leaves(params)):
    title, settings = "frozen", "not trained"
    if labels[i] in groups:
      is_decayed = masks[labels[i]][i]
      title = "weights" if is_decayed else "weights not named kernel"
      title = title if jnp.ndim(x) > 1 else "biases and norms"
      if labels[i] in _heads(groups):
        title = f"{labels[i]} {title}"
      settings = groups[labels[i]].describe(is_decayed)
    sizes[title, settings] = sizes.get((title, settings), 0) + x.size
  return [
    f"{title}: {size:,} parameters, {settings}"
    for (title, settings), size in sorted(sizes.items(), reverse=True)
  ]
