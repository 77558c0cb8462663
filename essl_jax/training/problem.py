"""The training problem: networks, their losses, and an optimiser."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import optax

from essl_jax.errors import told
from essl_jax.losses import common
from essl_jax.methods.method import Outputs
from essl_jax.training import gradient_cache, norms
from essl_jax.training import networks as networks_lib

_NETWORKS_KEY = 2**31 - 1  # no image of a step has this number
_MORE_IMAGES = "give a larger config.batch_size or fewer config.micro_batches"
_COMMON = ("loss", "gradient_norm", "learning_rate")  # metrics of every step


@dataclasses.dataclass(frozen=True)
class Problem:
  """Networks, losses and optimiser, for one device's share or the whole batch.

  Its methods take a `step.TrainState`.

  Attributes:
    networks: from `networks.make_networks`.
    optimizer: updates the networks' parameters.
    schedule: the learning rate, for the metrics.
    total_steps: steps of the whole training.
    steps_per_epoch: steps of each epoch.
    micro_batches: number of parts that a device's images are divided into; see
      `gradient_cache`.
    axis_name: mapped axis, or None on a single device.
  """

  networks: networks_lib.Networks
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  total_steps: int = 1
  steps_per_epoch: int = 1
  micro_batches: int = 1
  axis_name: str | None = None

  def mean(self, tree: Any) -> Any:
    """Averages over devices."""
    return tree if self.axis_name is None else lax.pmean(tree, self.axis_name)

  def places(self, examples: int) -> jax.Array:
    """The index of each image in the global batch, int32 [N]."""
    first = common.first_row(examples, self.axis_name)
    return first + jnp.arange(examples, dtype=jnp.int32)

  def forward(self, state: Any) -> gradient_cache.Forward:
    """Makes the forward pass of the networks and, if any, of the target's.

    Args:
      state: gives the target, the seed and the step.

    Returns:
      A function of the parameters, the running statistics of both, and (views,
      `places`), for any number of examples. It returns the outputs of the parts
      and of the target, and the new statistics.
    """
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    key = jax.random.fold_in(key, _NETWORKS_KEY)

    def forward(params: Any, statistics: Any, inputs: Any) -> tuple[Any, Any]:
      views, places = inputs
      image_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)

      def run(networks: Any, params: Any, batch_stats: Any) -> tuple[Any, Any]:
        with norms.checked(_MORE_IMAGES):
          found, updates = networks.apply(
            {"params": params, "batch_stats": batch_stats},
            views.images,
            views.targets,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": image_keys[0]},
            image_keys=image_keys,
          )
        return found, updates.get("batch_stats", {})

      own, moved = run(self.networks, params, statistics[0])
      if state.target is None:
        return (own, None), (moved, statistics[1])
      target = self.networks.as_target()
      (found,), of_target = run(target, state.target["params"], statistics[1])
      return (own, lax.stop_gradient(found)), (moved, of_target)

    return forward

  def outputs(
    self, state: Any, found: Any, targets: Mapping[str, Any]
  ) -> Outputs:
    """Assembles the input of the method's loss.

    Args:
      state: as for `forward`.
      found: what the function that `forward` makes returns first.
      targets: of the views.

    Returns:
      The input of the method's `loss`, `metrics` and `after_update`.
    """
    (own, *_), target = found
    return Outputs(
      own,
      target,
      state.extra,
      state.step,
      self.total_steps,
      self.steps_per_epoch,
      targets.get("parameters", {}),
    )

  def objective(
    self, state: Any, targets: Mapping[str, Any]
  ) -> gradient_cache.Objective:
    """Makes the total loss: the method's plus the weighted terms'.

    Args:
      state: as for `forward`.
      targets: of the views.

    Returns:
      A function of `found`, as for `outputs`. It returns the loss to
      differentiate, and metrics.

    Raises:
      UsageError: raised by that function if a loss fails or is not one number,
        or a metric's name is taken.
    """
    method, terms = self.networks.method, self.networks.terms

    @jax.named_scope("losses")
    def objective(found: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
      (_, *others), _ = found
      with told(f"{type(method).__name__}.loss"):
        outputs = self.outputs(state, found, targets)
        loss = method.loss(outputs, axis_name=self.axis_name)
        _check_number(loss)
      metrics, asides = {"loss_ssl": loss}, []
      for term, own in zip(terms, others, strict=True):
        with told(f"{type(term).__name__}.loss"):
          result = term.loss(own, targets, axis_name=self.axis_name)
          if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError("loss must return (scalar, metrics)")
          value, more = result
          _check_number(value)
          _add(metrics, {f"loss_{term.section}": value})
          _add(metrics, more)
        if term.is_aside:
          asides.append(term.weight * value)
        else:
          loss = loss + term.weight * value
      metrics["loss"] = loss
      return sum(asides, loss), metrics

    return objective


def _add(metrics: dict[str, jax.Array], more: Mapping[str, Any]) -> None:
  """Adds metrics; raises ValueError if a name is taken."""
  for name, value in more.items():
    if name in metrics or name in _COMMON:
      raise ValueError(f"the metric {name} exists already: rename it")
    metrics[name] = value


def _check_number(loss: Any) -> None:
  form = jax.typeof(loss)
  if form.shape or not jnp.issubdtype(form.dtype, jnp.floating):
    raise ValueError(f"the loss must be one number, and is {form}")
