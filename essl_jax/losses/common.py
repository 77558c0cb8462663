"""Common code of losses: checks, unit rows, products, sums over devices."""

import chex
import jax
from jax import lax
import jax.numpy as jnp

_EPSILON = 1e-12  # smallest norm divided by, as in PyTorch's `normalize`


def check_pair(a: chex.Array, b: chex.Array, names: str) -> None:
  """Raises ValueError unless both arrays are of one shape [N, D]."""
  if a.ndim != 2 or a.shape != b.shape:
    raise ValueError(
      f"{names} must both be of one shape [N, D], got {a.shape} and {b.shape}"
    )


def check_temperature(temperature: float) -> None:
  """Raises ValueError unless it is above 0, where its value is known."""
  if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
    raise ValueError(f"temperature must be above 0, got {temperature}")


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
  x = jnp.asarray(x, jnp.float32)
  # The smaller of the two branches' gradients must stay finite at x = 0.
  squared = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * lax.rsqrt(jnp.maximum(squared, _EPSILON**2))


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
  return lax.pcast(mean, axis_name, to="varying")


def average_for_all(x: jax.Array, axis_name: str | None) -> jax.Array:
  """`average` of what all go on to use alike: its gradients need no sum."""
  if axis_name is None:
    return x
  return x + lax.stop_gradient(average(x, axis_name) - x)


def first_row(n: int, axis_name: str | None) -> jax.Array | int:
  """Where this device's n rows start among the gathered ones."""
  return 0 if axis_name is None else lax.axis_index(axis_name) * n
