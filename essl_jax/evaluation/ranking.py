"""Ranks classes by the nearest neighbours in a bank, divided over devices."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
import numpy as np

from essl_jax import inputs, losses
from essl_jax.devices import parallel

# One block's similarities [block, bank] hold at most this many float32: 64 MB.
BLOCK_ELEMENTS = 2**24
_NOBODY = -2  # the label of padding, which is never a neighbour


def rank(
  bank: ArrayLike,
  bank_labels: ArrayLike,
  queries: ArrayLike,
  temperature: ArrayLike,
  *,
  num_classes: int,
  ks: Sequence[int],
  mesh: Mesh | None = None,
) -> list[jax.Array]:
  """`knn.predict` on checked arguments, for several k in one pass.

  Args:
    bank: [B, D].
    bank_labels: [B].
    queries: [Q, D].
    temperature: divides the similarities.
    num_classes: C.
    ks: numbers of neighbours.
    mesh: the devices; each holds an equal part of the float32 bank:
      ImageNet's training set takes 10.5 GB on all together. If None, the
      default device holds it.

  Returns:
    Classes [Q, C] int32 for every k, best first.
  """
  arrays = bank, _voting(bank_labels, num_classes), queries
  if mesh is not None:
    arrays = _place(mesh, *map(np.asarray, arrays))
  return compiled(mesh)(
    *arrays, temperature, num_classes=num_classes, ks=tuple(ks)
  )


def _voting(labels: ArrayLike, num_classes: int) -> Any:
  """Converts labels to int32, -1 for those that do not vote; none overflows."""
  here = jnp if isinstance(labels, jax.Array) else np
  found: Any = here.asarray(labels)
  is_class = (found >= 0) & (found < num_classes)
  return here.where(is_class, found, -1).astype(np.int32)


@functools.lru_cache(maxsize=2)
def compiled(mesh: Mesh | None) -> Callable[..., list[jax.Array]]:
  """The jitted `_rank` of a mesh, or of one device."""
  if mesh is None:
    return jax.jit(_rank, static_argnames=("num_classes", "ks"))

  @functools.partial(jax.jit, static_argnames=("num_classes", "ks"))
  def ranked(*arguments: jax.Array, **static: Any) -> list[jax.Array]:
    mapped = jax.shard_map(
      functools.partial(_rank, axis_name=parallel.AXIS, **static),
      mesh=mesh,
      in_specs=(P(parallel.AXIS), P(parallel.AXIS), P(), P()),
      out_specs=P(),
      check_vma=False,
    )
    return mapped(*arguments)

  return ranked


def _place(
  mesh: Mesh, bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray
) -> tuple[Any, Any, Any]:
  """Divides the bank over the devices and copies the queries to all."""
  padding = (0, -len(bank) % mesh.size)
  labels = np.pad(bank_labels, padding, constant_values=_NOBODY)
  bank = np.pad(bank, (padding, (0, 0)))
  return (
    *parallel.shard_copies((bank, labels), mesh),
    parallel.replicate_copies(queries, mesh),
  )


def _rank(
  bank: jax.Array,
  bank_labels: jax.Array,
  queries: jax.Array,
  temperature: jax.Array,
  *,
  num_classes: int,
  ks: tuple[int, ...],
  axis_name: str | None = None,
) -> list[jax.Array]:
  """See `rank`; `axis_name` splits the bank."""
  bank = losses.unit_length(bank)
  queries = losses.unit_length(queries)
  classes = jnp.arange(num_classes, dtype=bank_labels.dtype)
  most = max(ks)

  def rank_block(block: jax.Array) -> list[jax.Array]:
    nearest, labels = _neighbours(block, bank, bank_labels, most, axis_name)
    # The nearest gets weight 1, so no temperature overflows. Slicing it off
    # instead of `max` makes XLA sort the whole bank: 10 times slower.
    best = jnp.max(nearest, axis=1, keepdims=True)
    weights = jnp.exp((nearest - best) / temperature)
    votes = labels[..., None] == classes[None, None]
    ranked = []
    for k in ks:
      counted = weights * (jnp.arange(most) < k)[None]
      scores = jnp.sum(votes * counted[..., None], axis=1)
      ranked.append(jnp.argsort(scores, axis=1, stable=True, descending=True))
    return ranked

  number, width = queries.shape
  size = block_size(number, max(len(bank), most * num_classes))
  count = -(-number // size)
  padded = jnp.pad(queries, ((0, count * size - number), (0, 0)))
  ranked = jax.lax.map(rank_block, padded.reshape(count, size, width))
  shape = (count * size, num_classes)
  return [x.reshape(shape)[:number].astype(jnp.int32) for x in ranked]


def _neighbours(
  block: jax.Array,
  bank: jax.Array,
  bank_labels: jax.Array,
  k: int,
  axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
  """Similarities and labels [block, k] of the nearest, in descending order."""
  similarities = jnp.matmul(block, bank.T, precision=jax.lax.Precision.HIGHEST)
  if axis_name is None:
    nearest, rows = jax.lax.top_k(similarities, k)
    return nearest, bank_labels[rows]
  is_padding = bank_labels[None] == _NOBODY
  similarities = jnp.where(is_padding, -jnp.inf, similarities)
  nearest, rows = jax.lax.top_k(similarities, min(k, len(bank)))
  # Shards are gathered in order, so the earlier of equals still comes first.
  gather = functools.partial(
    jax.lax.all_gather, axis_name=axis_name, axis=1, tiled=True
  )
  labels = gather(bank_labels[rows])
  nearest, places = jax.lax.top_k(gather(nearest), k)
  return nearest, jnp.take_along_axis(labels, places, axis=1)


def block_size(number: int, row: int) -> int:
  """Number of queries at a time, so that rows of `row` values fit the limit."""
  most = max(1, BLOCK_ELEMENTS // row)
  count = -(-number // most)
  # Even blocks leave less padding in the last one.
  return -(-number // count)


def check(
  bank: Any,
  bank_labels: Any,
  queries: Any,
  num_classes: int,
  ks: Sequence[int],
  temperature: float,
) -> None:
  """Raises ValueError for what `rank` cannot work with."""
  shapes = f"bank {bank.shape}, queries {queries.shape}"
  if bank.ndim != 2 or queries.ndim != 2 or 0 in bank.shape + queries.shape:
    raise ValueError(f"features must be [N, D] and not empty, got {shapes}")
  if bank.shape[1] != queries.shape[1]:
    raise ValueError(f"features must have one width, got {shapes}")
  if bank_labels.shape != bank.shape[:1]:
    raise ValueError(
      f"bank_labels {bank_labels.shape} must be one per entry of {shapes}"
    )
  if not jnp.issubdtype(bank_labels.dtype, jnp.integer):
    raise ValueError(f"bank_labels must be integers, got {bank_labels.dtype}")
  for k in ks:
    if not 1 <= k <= len(bank):
      raise ValueError(f"k={k} must be between 1 and the bank's {len(bank)}")
  if num_classes < 1:
    raise ValueError(f"num_classes={num_classes} must be positive")
  value, form = inputs.known(temperature), np.finfo(np.float32)
  if value is not None and not form.tiny <= value <= form.max:
    raise ValueError(f"temperature={temperature} must be positive and finite")
