"""Inputs of the pure functions: known values, random keys, shardings.

Values are known if they are neither traced nor on devices of other processes.
Only known values are checked, so checks cost nothing under `jax.jit`.
"""

from collections.abc import Callable, Mapping
import contextvars
import functools
import types
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

_Function = TypeVar("_Function", bound=Callable[..., Any])
# Known arrays that `any_sharding` has traced, by the id of their tracer.
_TRACED: contextvars.ContextVar[Mapping[int, jax.Array]]
_TRACED = contextvars.ContextVar("_TRACED", default=types.MappingProxyType({}))


def known(x: Any) -> np.ndarray | None:
  """The values of a number or an array, or None if they are not known."""
  x = _TRACED.get().get(id(x), x)
  leaves = jax.tree.leaves(x)
  if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
    return None
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return None
  return np.asarray(x)


def known_numbers(name: str, x: Any) -> np.ndarray | None:
  """Like `known`; raises ValueError for known values that are not real."""
  values = known(x)
  if values is None:
    return None
  kinds = (np.bool_, np.integer, np.floating)
  if not any(jnp.issubdtype(values.dtype, kind) for kind in kinds):
    raise ValueError(f"{name} must be real numbers, got {x!r:.200}")
  return values


def check_range(
  name: str, x: Any, low: float, high: float, advice: str = ""
) -> None:
  """Refuses known numbers that are out of range.

  Args:
    name: of the argument.
    x: numbers of any shape.
    low: the smallest allowed value.
    high: the largest allowed value.
    advice: the end of the message.

  Raises:
    ValueError: one of them is out of range, or not a number.
  """
  values = known_numbers(name, x)
  if values is None or not values.size:
    return
  least, most = values.min(), values.max()
  if not (low <= least and most <= high):
    found = f"{least}" if least == most else f"{least} to {most}"
    raise ValueError(
      f"{name} must be in [{low:g}, {high:g}], got {found}{advice}"
    )


def check_finite(name: str, x: Any) -> None:
  """Raises ValueError for an array that is known not to be finite."""
  values = known_numbers(name, x)
  if values is not None and not np.isfinite(values).all():
    raise ValueError(f"{name} must be finite, but some values are not")


def check_floating(name: str, x: Any) -> None:
  """Raises ValueError for an integer array, such as uint8 images."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f"{name} must be floating point, got {x.dtype}")


def keys_by_place(
  key: chex.PRNGKey, count: int, first: jax.typing.ArrayLike = 0
) -> jax.Array:
  """One key per image, by its index in a larger batch or set.

  Args:
    key: one key, typed or legacy.
    count: of images.
    first: index of the first image, such as the start of a device's share.

  Returns:
    Keys [count] of the same kind; they do not depend on how the batch is
    divided.
  """
  return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))


def image_keys(key: chex.PRNGKey, count: int) -> jax.Array:
  """Typed keys, one per image.

  Args:
    key: one key, or `[count]` keys; typed, or legacy `[2]` or `[count, 2]`.
    count: of images.

  Returns:
    Keys `[count]`: the given ones, or `keys_by_place` of the one key.

  Raises:
    ValueError: `key` has another number of keys, or is not a key.
  """
  try:
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
      key = jax.random.wrap_key_data(key)
  except (AttributeError, TypeError):  # an int, or another kind of data
    found = getattr(key, "shape", repr(key))
    raise ValueError(
      f"key must be one key or [{count}] keys, got {found}: jax.random.key"
      " makes them"
    ) from None
  if key.ndim == 0:
    return keys_by_place(key, count)
  if key.shape != (count,):
    raise ValueError(f"key must be one key or [{count}] keys, got {key.shape}")
  return key


def labels_of(labels: Any, rows: int, classes: int) -> jax.Array:
  """Checks that labels are [N] integers, in range if their values are known.

  Args:
    labels: one for each row.
    rows: N.
    classes: number of classes.

  Returns:
    The labels; narrower types, which may not hold the number of classes, become
    int32.

  Raises:
    ValueError: wrong shape or dtype, or a known label outside [0, classes).
  """
  if np.shape(labels) != (rows,):
    raise ValueError(
      f"labels must be one for each of {rows} rows, got shape"
      f" {np.shape(labels)}"
    )
  dtype = getattr(labels, "dtype", None) or np.asarray(labels).dtype
  if not jnp.issubdtype(dtype, jnp.integer):
    raise ValueError(f"labels must be integers, got {dtype}")
  check_range("labels", labels, 0, classes - 1)
  return widened(labels)


def widened(x: Any) -> jax.Array:
  """Converts narrow integers, which may not hold counts, to int32."""
  x = jnp.asarray(x)
  return x.astype(jnp.int32) if x.dtype.itemsize < 4 else x


def any_sharding(*, by_example: bool) -> Callable[[_Function], _Function]:
  """Makes a function work on arrays whose shardings JAX tracks.

  Meshes of `jax.make_mesh` have explicit axes. For these, JAX refuses
  operations whose result could be sharded in several ways; inside the function
  the compiler decides instead. Nothing changes for other arrays.

  Args:
    by_example: whether the first axis of the results is divided over the
      devices like that of the first divided argument; if False, the results are
      copied to all devices.

  Returns:
    A decorator.
  """

  def decorate(function: _Function) -> _Function:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
      leaves = jax.tree.leaves((args, kwargs))
      arrays = [x for x in leaves if isinstance(x, jax.Array)]
      if any(map(_may_be_divided, arrays)):
        return _automatic(function, by_example, *args, **kwargs)
      return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]

  return decorate


def _automatic(
  function: Callable[..., Any], by_example: bool, /, *args: Any, **kwargs: Any
) -> Any:
  """Calls a function for which the compiler chooses all shardings."""
  leaves, tree = jax.tree.flatten((args, kwargs))
  places = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array)]
  shardings = [jax.typeof(leaves[i]).sharding for i in places]

  def call(*arrays: jax.Array) -> Any:
    found = list(leaves)
    for i, x in zip(places, arrays, strict=True):
      found[i] = x
    args, kwargs = jax.tree.unflatten(tree, found)
    known = dict(zip(map(id, arrays), (leaves[i] for i in places), strict=True))
    token = _TRACED.set({**_TRACED.get(), **known})
    try:
      return function(*args, **kwargs)
    finally:
      _TRACED.reset(token)

  shardings.sort(key=lambda x: any(x.spec), reverse=True)
  mesh = next(x.mesh for x in shardings if _explicit(x.mesh))
  rows = next((x.spec[0] for x in shardings if x.spec and x.spec[0]), None)
  automatic = jax.sharding.auto_axes(
    call,
    axes=_explicit(mesh),
    out_sharding=NamedSharding(mesh, P(rows) if by_example else P()),
  )
  # Without jit, JAX would require `jax.set_mesh`.
  return jax.jit(automatic)(*(leaves[i] for i in places))


def _may_be_divided(x: jax.Array) -> bool:
  """Whether JAX tracks that an array is divided, or `jax.vmap` may hide it."""
  sharding = jax.typeof(x).sharding
  is_traced = isinstance(x, jax.core.Tracer)
  return any(sharding.spec) or is_traced and bool(_explicit(sharding.mesh))


def _explicit(mesh: jax.sharding.AbstractMesh) -> tuple[str, ...]:
  """The axes of a mesh whose shardings JAX tracks."""
  types = zip(mesh.axis_names, mesh.axis_types, strict=True)
  return tuple(name for name, kind in types if kind == AxisType.Explicit)


def check_multiple(
  name: str, value: int, factor: int, factor_name: str = ""
) -> None:
  """Raises ValueError unless a number is a positive multiple of another.

  Args:
    name: name of the number, for the message.
    value: the number.
    factor: the number that must divide it.
    factor_name: name of the factor, if it has one.
  """
  if value < 1 or value % factor:
    wanted = f"{factor_name} {factor}".strip()
    raise ValueError(f"{name} must be a multiple of {wanted}, got {value}.")
