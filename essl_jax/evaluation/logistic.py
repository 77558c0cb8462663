"""Multinomial logistic regressions by L-BFGS, all penalties at once."""

from collections.abc import Iterator, Sequence
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from essl_jax.evaluation import features as features_lib

PENALTIES = tuple(np.logspace(-6, 5, 45).tolist())
"""Of which one is chosen; they multiply half the squared norm of the weights.

Kornblith et al. 2019 (arXiv 1805.08974), appendix A.6, have as many."""
_BLOCK_ELEMENTS = 2**26  # logits at most at a time: 256 MB
_TOLERANCES = {"float32": 1e-4, "float64": 1e-8}
_MEMORY = 10  # steps that L-BFGS remembers
_ROUND = 50  # steps after which the curvature is looked at again


class Regressions(NamedTuple):
  """Linear layers, one for each penalty.

  Attributes:
    kernels: [K, D, C].
    intercepts: [K, C], which add up to 0 but for classes without an example,
      where they are minus infinity.
    steps: int32 [K], which L-BFGS took.
    is_converged: bool [K]; False where it stopped before the tolerance.
  """

  kernels: np.ndarray
  intercepts: np.ndarray
  steps: np.ndarray
  is_converged: np.ndarray

  def predict(self, features: np.ndarray) -> np.ndarray:
    """The classes of features [M, D] by each regression, int [K, M]."""
    named = [
      np.argmax(features @ kernel + intercept, axis=1)
      for kernel, intercept in zip(self.kernels, self.intercepts, strict=True)
    ]
    return np.stack(named)


class _Inputs(NamedTuple):
  """Features along their principal axes, and what they are to tell.

  Attributes:
    rotated: [N, R], of mean 0 and uncorrelated.
    labels: int32 [N].
    log_shares: [C], of the classes.
  """

  rotated: jax.Array
  labels: jax.Array
  log_shares: jax.Array


def fit(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int,
  penalties: Sequence[float] = PENALTIES,
  tolerance: float | None = None,
  max_steps: int = 5000,
) -> Regressions:
  """Minimises the mean cross entropy + penalty/2 |W|^2, intercepts free.

  This is scikit-learn's `LogisticRegression` with C = 1 / (penalty N). Features
  are turned to their principal axes, which changes no norm of W, and each axis
  is scaled by the root of the loss's curvature along it, from time to time
  anew: features of any scale will do. What is computed is of float32, or of
  float64 where the features are and JAX has 64 bits enabled.

  Args:
    features: [N, D].
    labels: integers [N] in [0, num_classes).
    num_classes: C.
    penalties: K numbers above 0, all fitted together.
    tolerance: to which part of its first norm the gradient (of scaled weights)
      falls; 1e-4 in float32 and 1e-8 in float64 if not stated.
    max_steps: of L-BFGS.

  Returns:
    The layers, in the order of the penalties.

  Raises:
    ValueError: features and labels do not fit, are not finite or out of range;
      or a penalty is not a finite number above 0.
  """
  features_lib.check("train", features, labels, num_classes)
  if not len(penalties) or not all(0 < x < np.inf for x in penalties):
    raise ValueError(
      f"penalties must be one or more finite numbers above 0, got {penalties}"
    )
  given = np.asarray(features)
  is_wide = given.dtype == np.float64 and jax.config.read("jax_enable_x64")
  dtype = np.dtype(np.float64 if is_wide else np.float32)
  mean, axes = _principal_axes(given)
  counts = np.bincount(labels, minlength=num_classes)
  with np.errstate(divide="ignore"):
    log_shares = np.log(counts / len(labels))
  found = counts > 0
  log_shares = np.where(found, log_shares - log_shares[found].mean(), -np.inf)
  inputs = _Inputs(
    jnp.asarray((given - mean) @ axes, dtype),
    jnp.asarray(labels, jnp.int32),
    jnp.asarray(log_shares, dtype),
  )
  solve = functools.partial(
    _solve, inputs, tolerance or _TOLERANCES[dtype.name], max_steps
  )
  size = max(1, _BLOCK_ELEMENTS // (len(labels) * num_classes))
  parts = [
    jax.device_get(solve(jnp.asarray(block, dtype)))
    for block in _blocks(penalties, size)
  ]
  scaled, offsets, steps, done = (
    np.concatenate(x)[: len(penalties)] for x in zip(*parts, strict=True)
  )
  kernels = np.einsum("dr,krc->kdc", axes, scaled.astype(np.float64))
  shift = np.einsum("d,kdc->kc", mean, kernels)
  intercepts = log_shares + offsets - shift
  # The same for all classes says nothing: they add up to 0, as the kernels do.
  intercepts -= intercepts[:, found].mean(axis=1, keepdims=True)
  return Regressions(
    kernels.astype(dtype), intercepts.astype(dtype), steps, done
  )


def _principal_axes(
  features: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """The mean [D], and the axes along which features vary [D, R]."""
  wide = np.asarray(features, np.float64)
  mean = wide.mean(axis=0)
  centered = wide - mean
  values, vectors = np.linalg.eigh(centered.T @ centered / len(wide))
  least = len(values) * np.finfo(np.float64).eps * max(values[-1], 0)
  varies = values > least
  return mean, vectors[:, varies]


def _blocks(penalties: Sequence[float], size: int) -> Iterator[np.ndarray]:
  """Parts of one size; the last is filled up with its last penalty."""
  size = min(size, len(penalties))
  for start in range(0, len(penalties), size):
    block = np.asarray(penalties[start : start + size])
    yield np.pad(block, (0, size - len(block)), mode="edge")


@functools.partial(jax.jit, static_argnames="max_steps")
def _solve(
  inputs: _Inputs, tolerance: float, max_steps: int, penalties: jax.Array
) -> tuple[jax.Array, ...]:
  """Weights [K, R, C], offsets of the intercepts [K, C], steps, convergence."""
  axes, classes = inputs.rotated.shape[1], inputs.log_shares.shape[0]
  dtype = inputs.rotated.dtype

  def run(penalty: jax.Array) -> tuple[jax.Array, ...]:
    layer = jnp.zeros((axes + 1, classes), dtype)  # the last row are offsets
    first = _scaled_norm(inputs, penalty, layer)
    bound = tolerance * first

    def is_due(carry: tuple) -> jax.Array:
      _, count, norm = carry
      return (count < max_steps) & (norm > bound)

    def again(carry: tuple) -> tuple:
      layer, count, _ = carry
      most = jnp.minimum(_ROUND, max_steps - count)
      layer, steps = _descend(inputs, penalty, layer, bound, most)
      norm = _scaled_norm(inputs, penalty, layer)
      return layer, count + steps, norm

    start = layer, jnp.zeros((), jnp.int32), first
    layer, count, norm = lax.while_loop(is_due, again, start)
    return layer[:-1], layer[-1], count, norm <= bound

  return jax.vmap(run)(penalties)


def _loss(inputs: _Inputs, penalty: jax.Array, layer: jax.Array) -> jax.Array:
  """What is minimised, of weights [R, C] and offsets below them."""
  entropy = optax.softmax_cross_entropy_with_integer_labels(
    _logits(inputs, layer), inputs.labels
  )
  return jnp.mean(entropy) + penalty / 2 * jnp.sum(layer[:-1] ** 2)


def _logits(inputs: _Inputs, layer: jax.Array) -> jax.Array:
  products = jnp.matmul(
    inputs.rotated, layer[:-1], precision=lax.Precision.HIGHEST
  )
  return products + (inputs.log_shares + layer[-1])[None]


def _scale(inputs: _Inputs, penalty: jax.Array, layer: jax.Array) -> jax.Array:
  """One over the root of the loss's curvature along each entry of a layer."""
  chances = jax.nn.softmax(_logits(inputs, layer))
  spread = chances * (1 - chances)
  squares = jnp.matmul(
    inputs.rotated.T**2, spread, precision=lax.Precision.HIGHEST
  ) / len(spread)
  curvature = jnp.concatenate(
    [squares + penalty, jnp.mean(spread, axis=0, keepdims=True)]
  )
  return jnp.where(curvature > 0, lax.rsqrt(curvature), 0)


def _scaled_norm(
  inputs: _Inputs, penalty: jax.Array, layer: jax.Array
) -> jax.Array:
  gradient = jax.grad(_loss, argnums=2)(inputs, penalty, layer)
  return optax.tree.norm(gradient * _scale(inputs, penalty, layer))


def _descend(
  inputs: _Inputs,
  penalty: jax.Array,
  layer: jax.Array,
  bound: jax.Array,
  most: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Some steps of L-BFGS on moves of the layer, scaled by its curvature."""
  optimizer = optax.lbfgs(memory_size=_MEMORY, scale_init_precond=False)
  scale = _scale(inputs, penalty, layer)
  loss = lambda move: _loss(inputs, penalty, layer + scale * move)

  def is_due(carry: tuple) -> jax.Array:
    _, state, count = carry
    norm = optax.tree.norm(optax.tree.get(state, "grad"))
    return (count < most) & ((count == 0) | (norm > bound))

  def step(carry: tuple) -> tuple:
    move, state, count = carry
    value, gradient = optax.value_and_grad_from_state(loss)(move, state=state)
    updates, state = optimizer.update(
      gradient, state, move, value=value, grad=gradient, value_fn=loss
    )
    return optax.apply_updates(move, updates), state, count + 1

  move = jnp.zeros_like(layer)
  start = move, optimizer.init(move), jnp.zeros((), jnp.int32)
  move, _, count = lax.while_loop(is_due, step, start)
  return layer + scale * move, count
