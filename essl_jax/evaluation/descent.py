"""L-BFGS for logistic regressions, scaled by the curvature of the loss.

If classes are almost separable and the penalty is small, the curvature of the
loss differs by a factor of a million between directions, and plain L-BFGS takes
thousands of steps. So it runs in coordinates in which the curvature is similar.
At first each entry is scaled by itself. If that is not enough, and the Hessian
is small enough to compute, its Cholesky factor rotates and scales all entries
together; then a few steps are enough.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import optax

_MEMORY = 10  # steps that L-BFGS remembers
# Steps until the curvature is computed again: the full Hessian, the diagonal.
_FEW, _ROUND = 10, 40
LARGEST_HESSIAN = 1024  # rows; 4 MB in float32
_TRIALS = 20  # step lengths to try before a search counts as stuck

Root = jax.Array
"""Inverse square root of the curvature: of each entry of a layer [P], or the
inverse of the Hessian's Cholesky factor [P, P]."""
Solved = tuple[jax.Array, jax.Array, jax.Array]
"""Layers [K, R + 1, C], steps int32 [K], and whether each converged [K]."""


class Problem(NamedTuple):
  """Examples and their classes.

  Attributes:
    features: [N, R], uncorrelated and with mean 0.
    labels: int32 [N].
    weights: [N], weights of the examples; they add up to 1.
    shares: [C], logarithms of the classes' shares, the initial intercepts.
    zeros: [R + 1, C], the initial layer. It must come from outside of the
      compiled function: on CPUs, XLA of jaxlib 0.10.2 computes garbage if a
      softmax follows a product with a constant.
  """

  features: jax.Array
  labels: jax.Array
  weights: jax.Array
  shares: jax.Array
  zeros: jax.Array

  def logits(self, layer: jax.Array) -> jax.Array:
    """Logits [N, C] of a layer: weights [R, C] above intercept changes [C]."""
    products = _product(self.features, layer[:-1])
    return products + (self.shares + layer[-1])[None]

  def slope(self, penalty: jax.Array, layer: jax.Array) -> jax.Array:
    """The gradient of the mean cross entropy + penalty/2 |W|^2."""
    chances = jax.nn.softmax(self.logits(layer))
    is_own = jnp.arange(chances.shape[1])[None] == self.labels[:, None]
    others = jnp.where(is_own, 0, chances)
    # Sum the probabilities of the other classes: 1 - own would lose digits.
    missing = jnp.sum(others, axis=1, keepdims=True)
    pull = self.weights[:, None] * jnp.where(is_own, -missing, others)
    of_weights = _product(self.features.T, pull) + penalty * layer[:-1]
    of_intercepts = jnp.sum(pull, axis=0, keepdims=True)
    return jnp.concatenate([of_weights, of_intercepts])

  def balanced(self, move: jax.Array) -> jax.Array:
    """Removes the part of a move that is equal for all classes with examples.

    That part changes only the norm, and only the small curvature of the penalty
    acts on it. Scaling each class differently introduces it.
    """
    is_met = jnp.isfinite(self.shares)[None]
    total = jnp.sum(move, axis=1, keepdims=True, where=is_met)
    return jnp.where(is_met, move - total / jnp.sum(is_met), 0)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames="max_steps")
def solve(
  problem: Problem, penalties: jax.Array, *, tolerance: float, max_steps: int
) -> Solved:
  """Solves for each penalty, starting from the previous solution.

  Args:
    problem: see `Problem`.
    penalties: [K], the largest first.
    tolerance: stop once the norm of the scaled gradient is this fraction of the
      norm at zeros.
    max_steps: most L-BFGS steps for each penalty.

  Returns:
    See `Solved`. Fits that did not converge used all steps or hit rounding
    error.
  """

  def run(layer: jax.Array, penalty: jax.Array) -> tuple[jax.Array, Solved]:
    layer, steps, done = _run(problem, layer, penalty, tolerance, max_steps)
    return layer, (layer, steps, done)

  return lax.scan(run, problem.zeros, penalties)[1]


@functools.partial(jax.jit, static_argnames="max_steps")
def solve_many(
  problems: Problem, penalties: jax.Array, *, tolerance: float, max_steps: int
) -> Solved:
  """Like `solve`, for many problems at once along the arrays' first axis."""
  run = functools.partial(solve, tolerance=tolerance, max_steps=max_steps)
  return jax.vmap(run, (0, None))(problems, penalties)


def _run(
  problem: Problem,
  layer: jax.Array,
  penalty: jax.Array,
  tolerance: float,
  max_steps: int,
) -> Solved:
  """Runs rounds of L-BFGS for one penalty: layer, steps, convergence."""
  slope_at = functools.partial(problem.slope, penalty)
  root = _diagonal_root(problem, penalty, problem.zeros)
  first = slope_at(problem.zeros) * root
  bound = tolerance * optax.tree.norm(first)
  is_small = layer.size <= LARGEST_HESSIAN

  def is_due(carry: tuple) -> jax.Array:
    _, count, norm, is_stuck = carry
    return (count < max_steps) & (norm > bound) & ~is_stuck

  def one_round(carry: tuple) -> tuple:
    layer, count, *_ = carry
    if is_small:
      root = lax.cond(
        count == 0,
        lambda: jnp.diag(_diagonal_root(problem, penalty, layer).ravel()),
        lambda: _full_root(problem, penalty, layer),
      )
    else:
      root = _diagonal_root(problem, penalty, layer).ravel()
    steps = jnp.where(is_small & (count > 0), _FEW, _ROUND)
    most = jnp.minimum(steps, max_steps - count)
    layer, steps, norm = _descend(
      slope_at, problem.balanced, layer, root, bound, most
    )
    # A round that ends early without converging has hit rounding error.
    is_stuck = (steps < most) & (count > 0)
    return layer, count + steps, norm, is_stuck

  start = (
    layer,
    jnp.zeros((), jnp.int32),
    jnp.full((), jnp.inf, layer.dtype),
    jnp.zeros((), bool),
  )
  layer, count, norm, _ = lax.while_loop(is_due, one_round, start)
  return layer, count, norm <= bound


def _descend(
  slope_at: Callable[[jax.Array], jax.Array],
  balanced: Callable[[jax.Array], jax.Array],
  layer: jax.Array,
  root: Root,
  bound: jax.Array,
  most: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Takes L-BFGS steps: the layer, steps, norm of the scaled gradient."""
  direct = optax.scale_by_lbfgs(memory_size=_MEMORY)

  def at(move: jax.Array) -> jax.Array:
    turned = root * move if root.ndim == 1 else _product(root.T, move)
    return layer + balanced(turned.reshape(layer.shape))

  def look_at(layer: jax.Array) -> jax.Array:
    slope = slope_at(layer).ravel()
    return root * slope if root.ndim == 1 else _product(root, slope)

  def look(move: jax.Array) -> jax.Array:
    return look_at(at(move))

  def is_due(carry: tuple) -> jax.Array:
    _, slope, _, count, is_stuck = carry
    return (count < most) & (optax.tree.norm(slope) > bound) & ~is_stuck

  def step(carry: tuple) -> tuple:
    move, slope, state, count, _ = carry
    up, state = direct.update(slope, state, move)
    move, slope, is_stuck = _search(look, move, slope, -up)
    return move, slope, state, count + 1, is_stuck

  move = jnp.zeros(layer.size, layer.dtype)
  start = (
    move,
    look_at(layer),
    direct.init(move),
    jnp.zeros((), jnp.int32),
    jnp.zeros((), bool),
  )
  move, slope, _, count, _ = lax.while_loop(is_due, step, start)
  return at(move), count, optax.tree.norm(slope)


def _search(
  look: Callable[[jax.Array], jax.Array],
  move: jax.Array,
  slope: jax.Array,
  way: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Searches along a direction until the slope along it nearly vanishes.

  A convex loss needs no other condition, and slopes keep their precision even
  when values of the loss no longer differ.

  Reference:
    Hager and Zhang 2005, SIAM Journal on Optimization 16(1), equation 4.1: the
    approximate Wolfe conditions, with delta 0.1 and sigma 0.9.
  """
  before = jnp.vdot(slope, way)

  def is_due(carry: tuple) -> jax.Array:
    _, _, _, _, along, trials = carry
    is_good = (along >= 0.9 * before) & (along <= -0.8 * before)
    return ~is_good & (trials < _TRIALS)

  def trial(carry: tuple) -> tuple:
    low, high, length, _, along, trials = carry
    is_short = along < 0
    low = jnp.where(is_short, length, low)
    high = jnp.where(is_short, high, length)
    middle = jnp.where(jnp.isinf(high), 2 * length, (low + high) / 2)
    found = look(move + middle * way)
    return low, high, middle, found, jnp.vdot(found, way), trials + 1

  one = jnp.ones((), move.dtype)
  found = look(move + way)
  start = (
    jnp.zeros_like(one),
    jnp.full_like(one, jnp.inf),
    one,
    found,
    jnp.vdot(found, way),
    jnp.ones((), jnp.int32),
  )
  _, _, length, found, _, trials = lax.while_loop(is_due, trial, start)
  return move + length * way, found, trials >= _TRIALS


def _diagonal_root(
  problem: Problem, penalty: jax.Array, layer: jax.Array
) -> Root:
  """The inverse square root of the curvature along each entry of a layer."""
  chances = jax.nn.softmax(problem.logits(layer))
  spread = problem.weights[:, None] * chances * (1 - chances)
  squares = _product(problem.features.T**2, spread) + penalty
  of_intercepts = jnp.sum(spread, axis=0, keepdims=True)
  curvature = jnp.concatenate([squares, of_intercepts])
  return jnp.where(curvature > 0, lax.rsqrt(curvature), 0)


def _full_root(problem: Problem, penalty: jax.Array, layer: jax.Array) -> Root:
  """The inverse of the Hessian's Cholesky factor; the diagonal if it fails."""
  chances = jax.nn.softmax(problem.logits(layer))
  weighted = problem.weights[:, None] * chances
  ones = jnp.ones_like(problem.weights[:, None])
  wide = jnp.concatenate([problem.features, ones], axis=1)
  rows, classes = layer.shape

  def of_class(c: jax.Array) -> jax.Array:
    is_own = jnp.arange(classes) == c
    coupling = weighted[:, c][:, None] * (is_own[None] - chances)
    # [N, rows, C]: how an example couples the class with every entry.
    coupled = wide[:, :, None] * coupling[:, None, :]
    return _product(wide.T, coupled.reshape(len(wide), -1))

  hessian = lax.map(of_class, jnp.arange(classes)).transpose(1, 0, 2)
  hessian = hessian.reshape(layer.size, layer.size)
  penalties = jnp.full((rows, classes), penalty).at[-1].set(0)
  hessian += jnp.diag(penalties.ravel())
  diagonal = jnp.diagonal(hessian)
  # Along directions in which all classes change equally the gradient is zero,
  # and only the penalty has curvature.
  typical = jnp.mean(diagonal.reshape(rows, classes), axis=1)
  alike = jnp.full((classes, classes), 1 / classes, layer.dtype)
  hessian += jnp.kron(jnp.diag(typical), alike)
  curvature = jnp.diagonal(hessian)
  scale = jnp.where(curvature > 0, lax.rsqrt(curvature), 1)
  unit = hessian * scale[:, None] * scale[None, :]
  # Rounding must not make an eigenvalue negative.
  rounding = 32 * jnp.finfo(layer.dtype).eps
  factor = jnp.linalg.cholesky(unit + rounding * jnp.eye(layer.size))
  inverse = jax.scipy.linalg.solve_triangular(
    factor, jnp.eye(layer.size, dtype=layer.dtype), lower=True
  )
  is_found = jnp.isfinite(inverse).all()
  inverse = jnp.where(is_found, inverse, jnp.eye(layer.size))
  return inverse * scale[None, :]
