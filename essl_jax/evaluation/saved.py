"""Checkpoints of a probe or a fine-tuning, to resume from."""

from collections.abc import Mapping
import hashlib
import io
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
import numpy as np

from essl_jax.devices import parallel
from essl_jax.storage import bookkeeping, places
from essl_jax.storage.workdir import to_json
from essl_jax.texts import first_line

Counts = list[tuple[Any, ...]]
"""Figures of every finished repetition: correct answers, top-1 and top-5."""


class Saved:
  """The checkpoint file of an evaluation, which may stop at any step.

  It belongs to one encoder and protocol: the file of another is not read but
  overwritten. Only process 0 reads and writes.
  """

  def __init__(
    self,
    path: places.Path | None,
    mesh: Mesh,
    columns: int = 2,
    dtype: Any = np.int32,
  ):
    """Saves nothing if the path is None.

    Args:
      path: the file, `*.npz`.
      mesh: devices that hold copies of the state.
      columns: number of figures of a repetition.
      dtype: dtype of the figures.
    """
    self._path = path
    self._mesh = mesh
    self._columns = columns
    self._dtype = dtype
    self._key = ""

  def claim(self, protocol: Mapping[str, Any]) -> None:
    """Ties the file to an encoder and a protocol.

    Args:
      protocol: everything that decides the figures, including the encoder's
        fingerprint.
    """
    text = json.dumps(to_json(protocol), sort_keys=True)
    self._key = hashlib.sha256(text.encode()).hexdigest()
    if self._path is not None and jax.process_index() == 0:
      folder, file = self._path.parent, self._path
      bookkeeping.keep_whole(folder, bookkeeping.check_folder)
      bookkeeping.keep_whole(file, _check_whole)

  def save(self, counts: Counts, state: Any = None) -> None:
    """Writes the checkpoint atomically.

    Args:
      counts: figures of the finished repetitions.
      state: pytree of arrays, the state of the unfinished repetition if it has
        begun.
    """
    if self._path is None or jax.process_index() > 0:
      return
    self._path.parent.mkdir(parents=True, exist_ok=True)
    leaves = [np.asarray(x) for x in jax.tree.leaves(state)]
    arrays: dict[str, Any] = {f"leaf{i}": x for i, x in enumerate(leaves)}
    buffer = io.BytesIO()
    np.savez(
      buffer,
      key=np.array(self._key),
      counts=np.array(counts, self._dtype).reshape(-1, self._columns),
      **arrays,
    )
    places.replace_bytes(self._path, buffer.getvalue())

  def counts(self) -> Counts:
    """Figures of the finished repetitions; empty if nothing is saved."""
    nothing = np.zeros((0, self._columns), self._dtype)
    counts = self._read().get("counts", nothing)
    # Only the shapes of other processes' arrays matter.
    number = multihost_utils.broadcast_one_to_all(np.int32(len(counts)))
    if jax.process_index() > 0:
      counts = np.zeros((int(number), self._columns), self._dtype)
    counts = multihost_utils.broadcast_one_to_all(counts)
    return [tuple(row) for row in counts.tolist()]

  def restore(self, like: Any) -> Any:
    """Restores the state of the unfinished repetition.

    Args:
      like: an initial state.

    Returns:
      The saved state if there is one, else `like`.
    """
    leaves, structure = jax.tree.flatten(like)
    found = self._read()
    loaded = [found[k] for k in found if k.startswith("leaf")]
    is_there = np.int32(_forms(loaded) == _forms(leaves))
    if not multihost_utils.broadcast_one_to_all(is_there):
      return like
    mine = loaded if jax.process_index() == 0 else jax.device_get(leaves)
    loaded = multihost_utils.broadcast_one_to_all(mine)
    state = jax.tree.unflatten(structure, loaded)
    return parallel.replicate_copies(state, self._mesh)

  def _read(self) -> dict[str, np.ndarray]:
    """The file's arrays; none if it belongs to another encoder or protocol."""
    if self._path is None or jax.process_index() > 0:
      return {}
    if not places.exists(self._path):
      return {}
    content = io.BytesIO(self._path.read_bytes())
    try:
      with np.load(content, allow_pickle=False) as file:
        if str(file["key"]) != self._key:
          return {}
        return {name: file[name] for name in file.files}
    except Exception:  # as in `_check_whole`
      return {}  # not our file: start from the beginning


def _check_whole(path: places.Path) -> None:
  """Raises ValueError for a damaged archive, by the checksums in it."""
  bookkeeping.check_file(path)
  content = io.BytesIO(path.read_bytes())  # a disk error is not damage
  try:
    with np.load(content, allow_pickle=False) as file:
      for name in ("key", *file.files):
        file[name]
  except Exception as error:  # damaged archives raise many kinds
    raise ValueError(f"not a checkpoint ({first_line(error)})") from error


def _forms(leaves: list[Any]) -> list[tuple[Any, Any]]:
  return [(x.shape, x.dtype) for x in leaves]
