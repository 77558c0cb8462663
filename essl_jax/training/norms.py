"""Refuses norms that see a single value, and so learn from constants.

A norm over one value returns its offset, whatever the network computes. The
check reads shapes while a network is traced, so it covers norms in a user's own
modules. It counts a batch norm's values over all devices that share its
statistics, with micro-batches and images of 1 x 1 pixels taken into account,
and for other norms the features that they normalise together.
"""

from collections.abc import Callable, Iterator
import contextlib
import math
from typing import Any

import flax.linen as nn
import jax
from jax import lax
from jax.sharding import Mesh

from essl_jax.devices import parallel
from essl_jax.errors import UsageError

_FEWEST = 2  # values; the deviation of fewer says nothing
_OF_EXAMPLES = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm)


@contextlib.contextmanager
def checked(remedy: str) -> Iterator[None]:
  """Refuses norms that are traced in this context and see too few values.

  Args:
    remedy: what to do about batch norms, such as "give a larger
      config.batch_size".

  Raises:
    UsageError: raised by the call of such a norm in training mode.
  """

  def intercept(
    call: Callable[..., Any], args: Any, kwargs: Any, context: Any
  ) -> Any:
    norm = context.module
    if context.method_name == "__call__" and not norm.is_initializing():
      if isinstance(norm, nn.BatchNorm):
        _check(norm, args, kwargs, remedy)
      elif isinstance(norm, _OF_EXAMPLES):
        _check_features(norm, *args, **kwargs)
    return call(*args, **kwargs)

  with nn.intercept_methods(intercept):
    yield


def _check(norm: nn.BatchNorm, args: Any, kwargs: Any, remedy: str) -> None:
  x, *rest = args or (kwargs["x"],)
  is_frozen = rest[0] if rest else kwargs.get("use_running_average")
  if is_frozen is None:
    is_frozen = norm.use_running_average
  if is_frozen:
    return
  kept = {axis % x.ndim for axis in _tuple(norm.axis)}
  values = math.prod(n for i, n in enumerate(x.shape) if i not in kept)
  if norm.axis_name is not None:
    groups = norm.axis_index_groups
    values *= len(groups[0]) if groups else lax.axis_size(norm.axis_name)
  if values < _FEWEST:
    raise UsageError(
      f"the batch norm {'/'.join(norm.path)} would see {values} value of each"
      f" channel, and it needs {_FEWEST} or more: {remedy}"
    )


def _check_features(
  norm: Any, x: Any, *args: Any, mask: Any = None, **kwargs: Any
) -> None:
  """Checks a norm over values of one example."""
  del args, mask, kwargs
  groups, own = 1, range(1, x.ndim)
  if isinstance(norm, nn.InstanceNorm):
    kept = {axis % x.ndim for axis in _tuple(norm.feature_axes)}
    axes: Any = [axis for axis in own if axis not in kept]
  elif isinstance(norm, nn.GroupNorm):
    axes = own if norm.reduction_axes is None else _tuple(norm.reduction_axes)
    groups = norm.num_groups or x.shape[-1] // norm.group_size
  else:
    axes = _tuple(norm.reduction_axes)
  values = math.prod(x.shape[axis] for axis in axes) // groups
  if values < _FEWEST:
    name = f"{type(norm).__name__} {'/'.join(norm.path)}"
    raise UsageError(
      f"the {name} would see {values} value at a time, and it needs {_FEWEST}"
      " or more: give it more features, or leave it out"
    )


def _tuple(axes: Any) -> Any:
  return axes if isinstance(axes, tuple | list) else (axes,)


def are_fed(batch_size: int, mesh: Mesh) -> bool:
  """Whether each device has the two images or more that batch norms need."""
  return batch_size // mesh.size >= _FEWEST


def check_batch(
  apply: Callable[..., Any], variables: Any, images: Any, mesh: Mesh
) -> None:
  """Tries a network in training mode on shapes; computes nothing.

  Where `are_fed` is true, there is nothing to find.

  Args:
    apply: `(variables, images) -> anything` on one device's images; checks its
      norms.
    variables: their shapes.
    images: the shape of a whole batch, [N, ...].
    mesh: of the devices that share the batch.

  Raises:
    UsageError: raised by `apply`.
  """
  run = lambda variables, images: (apply(variables, images), images)
  jax.eval_shape(parallel.map_step(run, mesh), variables, images)
