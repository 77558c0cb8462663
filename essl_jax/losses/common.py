"""Shared code of the losses: checks, unit rows, products, device means."""

from collections.abc import Mapping, Sequence
import contextlib
from typing import Any

import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs

_EPSILON = 1e-12  # smallest divisor of a norm, as in PyTorch's `normalize`
_LARGEST = float(np.finfo(np.float32).max)
# Gradients at sizes up to _LARGE and 1 / _DIVISOR both fit into float32.
_LARGE, _DIVISOR = 2.0**20, 2.0**100


def as_pair(
  a: chex.Array, b: chex.Array, names: str, *, least_width: int = 2
) -> tuple[jax.Array, jax.Array]:
  """Converts two arrays of equal shape [N, D] to float32.

  Args:
    a: one array.
    b: the other.
    names: what error messages call them.
    least_width: the smallest D allowed. Rows scaled to unit length need 2: of
      a single number only the sign remains, which has no gradient.

  Raises:
    ValueError: the shapes differ, are not [N, D], or are too narrow or empty.
  """
  shapes = np.shape(a), np.shape(b)
  if len(shapes[0]) != 2 or shapes[0] != shapes[1] or 0 in shapes[0]:
    raise ValueError(
      f"{names} must have the same shape [N, D] and not be empty, got"
      f" {shapes[0]} and {shapes[1]}"
    )
  if shapes[0][1] < least_width:
    raise ValueError(
      f"{names} must have {least_width} or more dimensions, because the loss"
      f" compares their directions, got shape {shapes[0]}"
    )
  return as_float32(a), as_float32(b)


def as_number(
  name: str, x: jax.typing.ArrayLike, *, positive: bool
) -> jax.Array:
  """Converts a number to float32.

  Args:
    name: what error messages call it.
    x: the number; a traced one is not checked.
    positive: False also allows 0.

  Raises:
    ValueError: `x` is not a scalar, not finite, or not above 0.
  """
  if np.ndim(x):
    raise ValueError(f"{name} must be one number, got shape {np.shape(x)}")
  value = inputs.known_numbers(name, x)
  least = np.finfo(np.float32).tiny if positive else 0
  if value is not None and not least <= value <= _LARGEST:
    bound = "above" if positive else "at least"
    raise ValueError(f"{name} must be finite and {bound} 0, got {x}")
  return jnp.asarray(x, jnp.float32)


def as_weights(
  names: Sequence[str], weights: Mapping[str, Any] | Sequence[Any]
) -> list[jax.Array]:
  """Converts the weights of a loss's parts to float32.

  Args:
    names: names of the parts.
    weights: numbers of at least 0, as a mapping by name or as a sequence in the
      order of `names`.

  Returns:
    One float32 scalar per name.

  Raises:
    ValueError: the names or the number of weights do not match, or a known
      weight is negative or not finite.
  """
  given: Mapping[str, Any] = {}
  if isinstance(weights, Mapping):
    given = weights
  else:
    with contextlib.suppress(TypeError, ValueError):  # a number, or too few
      given = dict(zip(names, weights, strict=True))
  if set(given) != set(names):
    raise ValueError(
      f"weights must have one number for each of {', '.join(names)}, by name or"
      f" in this order, got {weights}"
    )
  return [
    as_number(f"weights[{name!r}]", given[name], positive=False)
    for name in names
  ]


def as_float32(x: chex.Array) -> jax.Array:
  """Converts real numbers to float32; gradients are clipped to their dtype."""
  x = jnp.asarray(x)
  if jnp.iscomplexobj(x):
    raise ValueError(f"arrays must be real, got {x.dtype}")
  wide = x.astype(jnp.float32)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return wide
  largest = float(jnp.finfo(x.dtype).max)
  return wide if largest >= _LARGEST else _bounded(wide, largest)


def _bounded(x: jax.Array, largest: float) -> jax.Array:
  """Returns `x` and clips its gradient to ±largest: float16 ends at 65504.

  Solves y = x, because JAX lets a linear solve define its own transpose and
  differentiates it in forward and reverse mode.
  """
  return lax.custom_linear_solve(
    lambda y: y,
    x,
    solve=lambda _, y: y,
    transpose_solve=lambda _, y: jnp.clip(y, -largest, largest),
  )


@inputs.any_sharding(by_example=True)
def unit_length(x: chex.Array) -> jax.Array:
  """Scales rows to length one; rows of zeros stay zeros.

  Args:
    x: [..., D], of any real dtype.

  Returns:
    The rows, float32.

  Example:
    >>> print(unit_length(jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3))
    [[0.6 0.8]
     [0.  0. ]]
  """
  x = as_float32(x)
  x = x / size_of_large(x, axis=-1)
  # The smaller of the two branches' gradients must stay finite at x = 0.
  squared = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * lax.rsqrt(jnp.maximum(squared, _EPSILON**2))


def size_of_large(
  x: jax.Array, *, axis: int, axis_name: str | None = None
) -> jax.Array:
  """Finds a divisor that keeps the squares along an axis from overflowing.

  Args:
    x: float32 array, to be normalised after the division.
    axis: the axis to reduce; it is kept with length one.
    axis_name: mapped axis whose devices share one divisor.

  Returns:
    The largest magnitude along the axis, at most 2**100, where it is above
    2**20, else 1. No gradient flows through it.
  """
  largest = jnp.max(
    jnp.abs(lax.stop_gradient(x)), axis=axis, keepdims=True, initial=0
  )
  if axis_name is not None:
    largest = lax.pmax(largest, axis_name)
  return jnp.where(largest > _LARGE, jnp.minimum(largest, _DIVISOR), 1)


def check_several(rows: int, axis_name: str | None) -> None:
  """Raises ValueError for a single example, which has nothing to compare to.

  Args:
    rows: number of examples on this device.
    axis_name: mapped axis; each of its devices has as many examples.
  """
  devices = 1 if axis_name is None else lax.axis_size(axis_name)
  if rows * devices < 2:
    raise ValueError(
      "the loss compares examples and got only 1: use a larger batch"
    )


def similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes inner products [N, M] in full float32 on every platform."""
  return jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Gathers all devices' rows, [N * devices, D]; without an axis, `x`."""
  if axis_name is None:
    return x
  return lax.all_gather(x, axis_name, tiled=True)


def average(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Takes the mean over devices; its gradient sums every device's use."""
  if axis_name is None:
    return x
  mean = lax.pmean(x, axis_name)
  # With check_vma=True, the gradient would otherwise miss the other devices.
  tracked = jax.typeof(x).mat.varying & set(jax.tree.leaves(axis_name))
  return lax.pcast(mean, tuple(tracked), to="varying")


def average_for_all(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Takes the mean over devices that all use it alike: no gradient sum."""
  if axis_name is None:
    return x
  return x + lax.stop_gradient(average(x, axis_name) - x)


def first_row(n: int, axis_name: str | None) -> jax.Array | int:
  """Returns where this device's n rows start among the gathered rows."""
  return 0 if axis_name is None else lax.axis_index(axis_name) * n
