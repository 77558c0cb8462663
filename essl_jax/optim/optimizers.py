"""SGD, LARS and AdamW, and the parameters that they decay and adapt."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax


def _plain(*numbers: Any) -> list[Any]:
  """Converts NumPy numbers to Python's: NumPy's may promote to 64 bits."""
  return [x.item() if isinstance(x, np.generic) else x for x in numbers]


def is_matrix(params: chex.ArrayTree) -> Any:
  """Marks every array except biases, norms, positions and tokens.

  Positions and tokens are arrays `[1, T, D]` that are not named `kernel`; all
  images share them.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.ndim(x) > 1 and not _is_shared(path, x), params
  )


def _is_shared(path: Any, x: Any) -> bool:
  return jnp.ndim(x) == 3 and x.shape[0] == 1 and not _is_named_kernel(path)


def _is_named_kernel(path: Any) -> bool:
  return jax.tree_util.keystr(path[-1:], simple=True) == "kernel"


def is_kernel(params: chex.ArrayTree) -> Any:
  """Marks arrays named `kernel`, as Flax's layers name their matrices.

  Does not mark biases and norms, or positions and tokens of any rank.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: _is_named_kernel(path), params
  )


def sgd(
  learning_rate: optax.ScalarOrSchedule,
  *,
  weight_decay: float,
  momentum: float,
) -> optax.GradientTransformation:
  """PyTorch's SGD: adds weight decay to the gradient before the momentum.

  Args:
    learning_rate: a number or a schedule from step to rate.
    weight_decay: applied to every parameter.
    momentum: momentum of the decayed gradient's running sum.

  Returns:
    The gradient transformation.
  """
  learning_rate, weight_decay, momentum = _plain(
    learning_rate, weight_decay, momentum
  )
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
  clip_rate: bool = False,
  mask: Any | Callable[[chex.ArrayTree], Any] = is_matrix,
) -> optax.GradientTransformation:
  """LARS, layer-wise adaptive rates, as in SimCLR and Barlow Twins.

  Scales each array's decayed gradient to `trust_coefficient` times the norm of
  the array, sums it with momentum, and then multiplies by the learning rate.
  `optax.lars` multiplies before the momentum, which differs as soon as the rate
  changes.

  With `clip_rate` this is LARC. An array's adapted rate is `trust_coefficient`
  |w| / (|g| + `weight_decay` |w|), where g is its gradient without decay. It is
  clipped to the learning rate.

  Args:
    learning_rate: a number or a schedule from step to rate.
    weight_decay: added to the gradient where `mask` is true.
    momentum: momentum of the running sum.
    trust_coefficient: eta.
    clip_rate: whether to clip every array's rate to the learning rate.
    mask: a tree of booleans, or a function that makes one from the parameters:
      what to decay and adapt. By default all except biases, norms, positions
      and tokens.

  Returns:
    The gradient transformation.

  Reference:
    You et al. 2017 (arXiv 1708.03888); Chen et al. 2020 (arXiv 2002.05709),
    appendix B.9. LARC: You et al. 2017, as NVIDIA's Apex clips it.
  """
  learning_rate, weight_decay, momentum, trust_coefficient = _plain(
    learning_rate, weight_decay, momentum, trust_coefficient
  )
  if clip_rate:
    adapt = [
      optax.masked(
        _clipped(learning_rate, weight_decay, trust_coefficient), mask
      )
    ]
  else:
    adapt = [
      optax.add_decayed_weights(weight_decay, mask),
      optax.masked(
        optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), mask
      ),
    ]
  return optax.chain(
    *adapt,
    optax.trace(momentum),
    optax.scale_by_learning_rate(learning_rate),
  )


def _clipped(
  learning_rate: optax.ScalarOrSchedule,
  weight_decay: float,
  trust_coefficient: float,
) -> optax.GradientTransformation:
  """Adds the decay and scales to the adapted rate, clipped from above."""

  def init(params: chex.ArrayTree) -> optax.ScaleByScheduleState:
    del params
    return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

  def update(
    gradients: chex.ArrayTree,
    state: optax.ScaleByScheduleState,
    params: chex.ArrayTree | None = None,
  ) -> tuple[chex.ArrayTree, optax.ScaleByScheduleState]:
    is_schedule = callable(learning_rate)
    rate = learning_rate(state.count) if is_schedule else learning_rate

    def adapt(gradient: jax.Array, weights: jax.Array) -> jax.Array:
      own, size = optax.tree.norm(gradient), optax.tree.norm(weights)
      is_some = (own > 0) & (size > 0)
      most = jnp.where(is_some, own + weight_decay * size, 1)
      adapted = trust_coefficient * size / most
      is_below = adapted < rate  # then the rate is not 0
      scale = jnp.where(is_below, adapted, 1) / jnp.where(is_below, rate, 1)
      decayed = gradient + weight_decay * weights
      return jnp.where(is_some, scale * decayed, gradient)

    found = jax.tree.map(adapt, gradients, params)
    count = optax.safe_increment(state.count)
    return found, optax.ScaleByScheduleState(count)

  return optax.GradientTransformation(init, update)


def adamw(
  learning_rate: optax.ScalarOrSchedule,
  *,
  weight_decay: float,
  beta1: float = 0.9,
  beta2: float = 0.999,
  epsilon: float = 1e-8,
  mask: Any | Callable[[chex.ArrayTree], Any] = is_kernel,
) -> optax.GradientTransformation:
  """PyTorch's AdamW: the decay does not pass through the moments.

  Args:
    learning_rate: a number or a schedule from step to rate; it also multiplies
      the decay.
    weight_decay: applied to the parameters where `mask` is true.
    beta1: decay rate of the gradient's running mean.
    beta2: decay rate of the squared gradient's running mean.
    epsilon: added to the square root of the latter.
    mask: what to decay, in the form of `lars`; by default kernels only.

  Returns:
    The gradient transformation.

  Reference:
    Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2.
  """
  *numbers, weight_decay = _plain(
    learning_rate, beta1, beta2, epsilon, weight_decay
  )
  return optax.adamw(*numbers, weight_decay=weight_decay, mask=mask)
