"""Common code of losses: checks, unit rows, products, sums over devices."""

from collections.abc import Mapping, Sequence
import contextlib
from typing import Any

import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs

_EPSILON = 1e-12  # smallest norm divided by, as in PyTorch's `normalize`
_LARGEST = float(np.finfo(np.float32).max)
# Float32 holds what gradients take of the first, and 1 over the second.
_LARGE, _DIVISOR = 2.0**20, 2.0**100


def as_pair(
  a: chex.Array, b: chex.Array, names: str, *, least_width: int = 2
) -> tuple[jax.Array, jax.Array]:
  """Both as float32; ValueError unless they are of one shape [N, D].

  Args:
    a: one array.
    b: the other.
    names: of both.
    least_width: of D; what is scaled to unit length needs two, for of one
      number its sign is left, which has no gradient.
  """
  shapes = np.shape(a), np.shape(b)
  if len(shapes[0]) != 2 or shapes[0] != shapes[1] or 0 in shapes[0]:
    raise ValueError(
      f"{names} must both be of one shape [N, D], not empty, got {shapes[0]}"
      f" and {shapes[1]}"
    )
  if shapes[0][1] < least_width:
    raise ValueError(
      f"{names} must have {least_width} or more dimensions to have directions,"
      f" got shape {shapes[0]}"
    )
  return as_float32(a), as_float32(b)


def as_number(
  name: str, x: jax.typing.ArrayLike, *, positive: bool
) -> jax.Array:
  """A float32 number; ValueError if it is known not to be one of above 0.

  Args:
    name: of the argument.
    x: the number.
    positive: False allows 0 too.
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
  """The weights of a loss's parts, float32 numbers.

  Args:
    names: of the parts.
    weights: numbers of at least 0 by name, or in the order of the names.

  Returns:
    One for each name.

  Raises:
    ValueError: other names, another number of them, or one that is known not
      to be finite and at least 0.
  """
  given: Mapping[str, Any] = {}
  if isinstance(weights, Mapping):
    given = weights
  else:
    with contextlib.suppress(TypeError, ValueError):  # a number, or too few
      given = dict(zip(names, weights, strict=True))
  if set(given) != set(names):
    raise ValueError(
      f"weights must be one for each of {', '.join(names)}, by name or in this"
      f" order, got {weights}"
    )
  return [
    as_number(f"weights[{name!r}]", given[name], positive=False)
    for name in names
  ]


def as_float32(x: chex.Array) -> jax.Array:
  """Real numbers as float32, their gradients within what their dtype holds."""
  x = jnp.asarray(x)
  if jnp.iscomplexobj(x):
    raise ValueError(f"arrays must be real, got {x.dtype}")
  wide = x.astype(jnp.float32)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return wide
  largest = float(jnp.finfo(x.dtype).max)
  return wide if largest >= _LARGEST else _bounded(wide, largest)


def _bounded(x: jax.Array, largest: float) -> jax.Array:
  """`x`; its gradient stays in ±largest, as float16 ends at 65504.

  It is x solved for itself: a linear function whose transpose may be told, for
  derivatives forward and backward.
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
  """About the largest size along an axis where squares may overflow, else 1.

  Args:
    x: float32.
    axis: which is kept, of length one.
    axis_name: mapped axis, over whose devices it is the largest, too.

  Returns:
    A divisor, which no gradient reaches: for what is then normalised.
  """
  largest = jnp.max(
    jnp.abs(lax.stop_gradient(x)), axis=axis, keepdims=True, initial=0
  )
  if axis_name is not None:
    largest = lax.pmax(largest, axis_name)
  return jnp.where(largest > _LARGE, jnp.minimum(largest, _DIVISOR), 1)


def check_several(rows: int, axis_name: str | None) -> None:
  """Raises ValueError for one example alone, which has none to differ from.

  Args:
    rows: of this device.
    axis_name: mapped axis, whose devices have as many each.
  """
  devices = 1 if axis_name is None else lax.axis_size(axis_name)
  if rows * devices < 2:
    raise ValueError(
      "the loss compares examples, and there is 1: give a larger batch"
    )


def similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """Inner products [N, M], in true float32 on every kind of device."""
  return jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
  """The rows of all devices, [N * devices, D]; `x` itself without an axis."""
  if axis_name is None:
    return x
  return lax.all_gather(x, axis_name, tiled=True)


def average(x: jax.Array, axis_name: str | None) -> jax.Array:
  """The mean over devices, each of which counts its own use of it."""
  if axis_name is None:
    return x
  mean = lax.pmean(x, axis_name)
  # Where JAX tracks what varies, the gradient would be a device's share only.
  tracked = jax.typeof(x).mat.varying & set(jax.tree.leaves(axis_name))
  return lax.pcast(mean, tuple(tracked), to="varying")


def average_for_all(x: jax.Array, axis_name: str | None) -> jax.Array:
  """`average` of what all go on to use alike: its gradients need no sum."""
  if axis_name is None:
    return x
  return x + lax.stop_gradient(average(x, axis_name) - x)


def first_row(n: int, axis_name: str | None) -> jax.Array | int:
  """Where this device's n rows start among the gathered ones."""
  return 0 if axis_name is None else lax.axis_index(axis_name) * n
