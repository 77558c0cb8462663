"""SGD, LARS and AdamW, and which parameters they decay and adapt."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax


def _plain(*numbers: Any) -> list[Any]:
  """Python's numbers for NumPy's, which would make 64 bits of 32."""
  return [x.item() if isinstance(x, np.generic) else x for x in numbers]


def is_matrix(params: chex.ArrayTree) -> Any:
  """True for every array but biases and the parameters of norms."""
  return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


def is_kernel(params: chex.ArrayTree) -> Any:
  """True for arrays named `kernel`, as Flax's layers name their matrices.

  False for biases and norms, and for positions and tokens of any rank.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == "kernel",
    params,
  )


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
  learning_rate, weight_decay, momentum, trust_coefficient = _plain(
    learning_rate, weight_decay, momentum, trust_coefficient
  )
  adapt = optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient)
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask),
    optax.masked(adapt, mask),
    optax.trace(momentum),
    optax.scale_by_learning_rate(learning_rate),
  )


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
    learning_rate: a number or a schedule of the step; it multiplies the decay.
    weight_decay: of the parameters where `mask` is true.
    beta1: of the gradient's running mean.
    beta2: of its square's.
    epsilon: added to the root of the latter.
    mask: as in `lars`: what is decayed.

  Returns:
    The gradient transformation.

  Reference:
    Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2.
  """
  *numbers, weight_decay = _plain(
    learning_rate, beta1, beta2, epsilon, weight_decay
  )
  return optax.adamw(*numbers, weight_decay=weight_decay, mask=mask)
