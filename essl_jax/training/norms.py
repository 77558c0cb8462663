"""Refuses batch norms that see a single value, and so learn from constants.

Whatever a network computes, a batch norm that is to normalise one value of each
channel gives its offset alone. Shapes decide it, where a network is traced: so
a norm in anybody's module counts, with all devices over which it shares its
statistics, images of 1 x 1 pixels and the micro-batches.
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

_FEWEST = 2  # values of which a deviation says something


@contextlib.contextmanager
def checked(remedy: str) -> Iterator[None]:
  """Refuses batch norms that are traced within and see too few values.

  Args:
    remedy: what to do about it, such as "give a larger config.batch_size".

  Raises:
    UsageError: by the call of such a norm in the mode of training.
  """

  def intercept(
    call: Callable[..., Any], args: Any, kwargs: Any, context: Any
  ) -> Any:
    norm = context.module
    if isinstance(norm, nn.BatchNorm) and context.method_name == "__call__":
      _check(norm, args, kwargs, remedy)
    return call(*args, **kwargs)

  with nn.intercept_methods(intercept):
    yield


def _check(norm: nn.BatchNorm, args: Any, kwargs: Any, remedy: str) -> None:
  x, *rest = args or (kwargs["x"],)
  is_frozen = rest[0] if rest else kwargs.get("use_running_average")
  if is_frozen is None:
    is_frozen = norm.use_running_average
  if is_frozen or norm.is_initializing():
    return
  axes = norm.axis if isinstance(norm.axis, tuple | list) else (norm.axis,)
  kept = {axis % x.ndim for axis in axes}
  values = math.prod(n for i, n in enumerate(x.shape) if i not in kept)
  if norm.axis_name is not None:
    groups = norm.axis_index_groups
    values *= len(groups[0]) if groups else lax.axis_size(norm.axis_name)
  if values < _FEWEST:
    raise UsageError(
      f"the batch norm {'/'.join(norm.path)} would see {values} value of each"
      f" channel, and it needs {_FEWEST} or more: {remedy}"
    )


def are_fed(batch_size: int, mesh: Mesh) -> bool:
  """Whether a batch is enough for all norms: two images or more on a device."""
  return batch_size // mesh.size >= _FEWEST


def check_batch(
  apply: Callable[..., Any], variables: Any, images: Any, mesh: Mesh
) -> None:
  """Tries a network in the mode of training; computes nothing.

  There is nothing to find where `are_fed` says so.

  Args:
    apply: `(variables, images) -> anything` of one device's images, which
      checks its norms.
    variables: their shapes.
    images: the shape of a whole batch, [N, ...].
    mesh: of the devices that share it.

  Raises:
    UsageError: by `apply`.
  """
  run = lambda variables, images: (apply(variables, images), images)
  jax.eval_shape(parallel.map_step(run, mesh), variables, images)
