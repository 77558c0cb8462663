"""Device meshes, and the placement of arrays on them."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
import os
import re
from typing import Any

import jax
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from essl_jax.errors import UsageError
from essl_jax.texts import first_line

AXIS = "batch"
_MOST_SIMULATED = 1024


def make_mesh(devices: Iterable[jax.Device] | None = None) -> Mesh:
  """Makes a mesh with one axis, `AXIS`, over the given or all devices."""
  devices = all_devices() if devices is None else list(devices)
  return Mesh(np.array(devices), (AXIS,))


def all_devices() -> list[jax.Device]:
  """Returns the devices of all processes.

  Raises:
    UsageError: JAX cannot use the requested platform, or is to simulate too
      many devices.
  """
  for count in re.findall(r"\d+", _simulated()):
    if int(count) > _MOST_SIMULATED:
      raise UsageError(
        f"{count} simulated CPU devices would take minutes: set at most"
        f" {_MOST_SIMULATED} in JAX_NUM_CPU_DEVICES and XLA_FLAGS"
      )
  try:
    return jax.devices()
  except (RuntimeError, AssertionError) as error:  # Assertion: no plugin
    asked = os.environ.get("JAX_PLATFORMS")
    platform = f"JAX_PLATFORMS={asked}" if asked else "JAX's default platform"
    raise UsageError(
      f"{platform} cannot be used ({first_line(error)}): install JAX and the"
      " driver for it, or set JAX_PLATFORMS=cpu; check JAX_NUM_CPU_DEVICES and"
      " XLA_FLAGS too if they are set"
    ) from error


def _simulated() -> str:
  """Returns the environment settings that simulate CPU devices."""
  flags = os.environ.get("XLA_FLAGS", "")
  found = re.findall(r"host_platform_device_count=(\d+)", flags)
  return " ".join([*found, os.environ.get("JAX_NUM_CPU_DEVICES", "")])


def check_batch_size(
  batch_size: int,
  mesh: Mesh,
  micro_batches: int = 1,
  field: str = "batch_size",
) -> None:
  """Raises UsageError unless all devices get equal shares of a batch.

  Processes read equal shares too, so they must have equal numbers of devices.
  The message names the config's `field`.
  """
  count = check_device_counts(mesh.devices.flat)
  parts = mesh.size * micro_batches
  if batch_size % parts:
    of_processes = f" of {count} processes" if count > 1 else ""
    times = f" times {micro_batches} micro-batches" if micro_batches > 1 else ""
    lower = batch_size - batch_size % parts
    near = [str(n) for n in (lower, lower + parts) if n]
    raise UsageError(
      f"config.{field} {batch_size} is not divisible by the {mesh.size}"
      f" devices{of_processes}{times}; use {' or '.join(near)}, or fewer"
      " devices"
    )


def check_device_counts(devices: Iterable[jax.Device]) -> int:
  """Raises UsageError unless all processes have the same number of devices.

  Args:
    devices: the devices of all processes.

  Returns:
    The number of processes.
  """
  counts = collections.Counter(x.process_index for x in devices)
  if len(set(counts.values())) > 1:
    most, least = (
      f"process {min(i for i in counts if counts[i] == n)} has {n}"
      for n in (max(counts.values()), min(counts.values()))
    )
    raise UsageError(
      f"the processes have different numbers of devices: {most}, {least}: give"
      " all the same number, with CUDA_VISIBLE_DEVICES or --local_device_ids"
    )
  return len(counts)


def map_step(step: Callable, mesh: Mesh) -> Callable:
  """Maps a per-device step over the mesh and compiles it.

  Args:
    step: `(state, batch) -> (state, metrics)`, written for one device's share
      with its collectives over `AXIS`.
    mesh: from `make_mesh`.

  Returns:
    The same function for a replicated state, whose buffers are donated, and a
    batch sharded over its leading dimension.
  """
  return _map_training(step, mesh, P(), P(AXIS))


def map_steps(step: Callable, mesh: Mesh) -> Callable:
  """Maps several steps as one program, on images that the devices hold.

  Args:
    step: as in `map_step`.
    mesh: from `make_mesh`.

  Returns:
    `(state, held, rows) -> (state, metrics)` for a replicated state, whose
    buffers are donated, replicated arrays of all images by name, and the int32
    rows [S, N] of S global batches, sharded over N. The metrics [S] are those
    of the S steps.
  """

  def steps(state: Any, held: Any, rows: jax.Array) -> tuple[Any, Any]:
    def body(state: Any, rows: jax.Array) -> tuple[Any, Any]:
      return step(state, _take(held, rows))

    return lax.scan(body, state, rows)

  return _map_training(steps, mesh, P(), P(), P(None, AXIS))


def _map_training(function: Callable, mesh: Mesh, *in_specs: P) -> Callable:
  """Compiles `(state, ...) -> (state, metrics)`; the state is donated."""
  # Replication is not tracked: the step averages its gradients itself.
  mapped = jax.shard_map(
    function,
    mesh=mesh,
    in_specs=in_specs,
    out_specs=(P(), P()),
    check_vma=False,
  )
  return jax.jit(mapped, donate_argnums=0)


def map_examples(
  function: Callable, mesh: Mesh, *, gathers: bool = True
) -> Callable:
  """Maps `(variables, images) -> results` over sharded images.

  Args:
    function: takes replicated variables and one device's images [N, ...].
    mesh: from `make_mesh`.
    gathers: whether to gather the results on every device, as several processes
      require; otherwise they stay where they were computed.

  Returns:
    The compiled function.
  """
  mapped = jax.shard_map(
    function,
    mesh=mesh,
    in_specs=(P(), P(AXIS)),
    out_specs=P(AXIS),
    check_vma=False,
  )
  spec = P() if gathers else P(AXIS)
  return jax.jit(mapped, out_shardings=NamedSharding(mesh, spec))


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts a copy of every array on every device."""
  return jax.device_put(tree, NamedSharding(mesh, P()))


def shard(batch: Any, mesh: Mesh) -> Any:
  """Makes global arrays from this process's share of a batch."""
  sharding = NamedSharding(mesh, P(AXIS))
  put = lambda x: jax.make_array_from_process_local_data(sharding, x)
  return jax.tree.map(put, batch)


def rows_by_process(mesh: Mesh | None, number: int) -> list[np.ndarray]:
  """Returns which rows of a batch each process holds and passes to `shard`.

  Args:
    mesh: shards the batch; None means a single process.
    number: number of rows, a multiple of the number of devices.

  Returns:
    Ascending row indices for each process.
  """
  if mesh is None:
    return [np.arange(number)]
  owners = [device.process_index for device in mesh.devices.flat]
  owner = np.repeat(owners, number // mesh.size)
  return [np.flatnonzero(owner == i) for i in range(jax.process_count())]


def to_host(x: jax.Array) -> np.ndarray:
  """Copies an array to the host, from all processes if it is sharded."""
  if x.is_fully_addressable or x.is_fully_replicated:
    return np.asarray(x)
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def gather(tree: Any) -> Any:
  """Gathers every process's arrays in all processes.

  Args:
    tree: arrays of at most 32 bits, with the same shapes in all processes.

  Returns:
    The arrays of all processes, stacked in process order.
  """
  index = np.int32(jax.process_index())
  owners, found = multihost_utils.process_allgather((index, tree))
  order = np.argsort(owners)
  return jax.tree.map(lambda x: x[order], found)


def gather_text(text: str) -> list[str]:
  """Gathers the texts of all processes; they must not contain zero bytes."""
  encoded = np.frombuffer(text.encode(), np.uint8)
  longest = int(gather(np.int32(len(encoded))).max())
  padded = np.pad(encoded, (0, longest - len(encoded)))
  return [bytes(x).rstrip(b"\0").decode() for x in gather(padded)]


def stream(batches: Iterable[Any], mesh: Mesh) -> Iterator[Any]:
  """Shards host batches over the mesh, one batch ahead of the consumer."""
  waiting = None
  for batch in batches:
    placed = shard(batch, mesh)
    if waiting is not None:
      yield waiting
    waiting = placed
  if waiting is not None:
    yield waiting


def stream_from_memory(
  arrays: Mapping[str, np.ndarray], indices: Iterable[np.ndarray], mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
  """Gathers batches from arrays that stay in the devices' memory.

  Args:
    arrays: host arrays of equal length, copied once to every device.
    indices: the int32 rows [N] of each global batch, the same in all processes.
    mesh: from `make_mesh`.

  Yields:
    The rows of every array, sharded over the mesh.
  """
  held = replicate(dict(arrays), mesh)
  take = jax.jit(_take, out_shardings=NamedSharding(mesh, P(AXIS)))
  for rows in indices:
    yield take(held, _spread(rows, mesh, P()))


def _take(
  held: Mapping[str, jax.Array], rows: jax.Array
) -> dict[str, jax.Array]:
  return {name: x[rows] for name, x in held.items()}


def shard_copies(batch: Any, mesh: Mesh) -> Any:
  """Makes sharded global arrays from a whole batch that every process holds."""
  return jax.tree.map(lambda x: _spread(x, mesh, P(AXIS)), batch)


def replicate_copies(tree: Any, mesh: Mesh) -> Any:
  """Replicates arrays that every process holds, without communication."""
  return jax.tree.map(lambda x: _spread(np.asarray(x), mesh, P()), tree)


def shard_rows(rows: np.ndarray, mesh: Mesh) -> jax.Array:
  """Makes a global array [S, N], sharded over N, from rows in all processes."""
  return _spread(rows, mesh, P(None, AXIS))


def _spread(x: np.ndarray, mesh: Mesh, spec: P) -> jax.Array:
  """Makes a global array from every process's copy, without communication."""
  sharding = NamedSharding(mesh, spec)
  places = sharding.addressable_devices_indices_map(x.shape)
  shares = [jax.device_put(x[rows], device) for device, rows in places.items()]
  return jax.make_array_from_single_device_arrays(x.shape, sharding, shares)
