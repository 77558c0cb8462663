"""Orbax's manager of checkpoints, set up for a run, with digests of arrays."""

from collections.abc import Mapping
from concurrent import futures
import dataclasses
import json
import math
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from essl_jax.errors import describe_trouble
from essl_jax.storage import digest, json_files, places, remarks
from essl_jax.texts import first_line

DESCRIPTION = "_CHECKPOINT_METADATA"  # by Orbax, of one checkpoint
_ITEM, _FILE = "digests", "digests.json"
# 1, 2, 4, 8 and 16 seconds after the one before.
_RETRIES = {"max_retries": 5, "initial_delay": "1s", "max_delay": "16s"}


remarks.hold_back()


class DigestHandler(ocp.AsyncCheckpointHandler):
  """Writes the digests of arrays, which it computes in the background."""

  def __init__(self) -> None:
    self._pool = futures.ThreadPoolExecutor(1, "essl_jax_digests")

  async def async_save(self, directory: Any, args: Any) -> list[Any]:
    """Begins to write; what is returned says when it is done."""
    return [self._pool.submit(self.save, directory, args)]

  def save(self, directory: Any, args: Any) -> None:
    """Writes the digests, in process 0."""
    if jax.process_index() == 0:
      found = {name: digest.of(x) for name, x in args.arrays.items()}
      content = {"step": args.step, "arrays": found}
      content["digest"] = digest.of_json(content)
      (directory / _FILE).write_text(json.dumps(content, indent=1) + "\n")

  def restore(self, directory: Any, args: Any = None) -> dict[str, Any]:
    """What `save` has written; ValueError where that is damaged."""
    del args
    found = json_files.read_object(epath.Path(directory) / _FILE)
    arrays = found.get("arrays")
    if not isinstance(arrays, dict) or not all(
      isinstance(x, str) for x in arrays.values()
    ):
      raise ValueError(f"{_FILE} holds no digests")
    own = found.pop("digest", None)  # none by earlier versions
    if own is not None and own != digest.of_json(found):
      raise ValueError(f"{_FILE} is not what was saved")
    return found

  def close(self) -> None:
    """Ends the thread."""
    self._pool.shutdown()


@ocp.args.register_with_handler(DigestHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class Digests(ocp.args.CheckpointArgs):
  """Arrays whose digests are written.

  Attributes:
    step: of the checkpoint.
    arrays: by name, in process 0; nobody else changes them.
  """

  step: int = 0
  arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Manager(ocp.CheckpointManager):
  """Orbax's manager, without its own questions about preemption.

  It asks from a background thread about steps gone by, which moves the step
  that `Preemption` is negotiating between processes.
  """

  def __init__(self, *arguments: Any, **options: Any) -> None:
    """As Orbax's, which reads figures meanwhile."""
    self._unreadable: set[int] = set()
    super().__init__(*arguments, **options)

  def reached_preemption(self, step: int) -> bool:
    """Returns False: `Preemption` alone asks."""
    return False

  def metrics(self, step: int) -> Any:
    """The figures of a checkpoint; none, which is said, where damaged."""
    try:
      found = super().metrics(step)
      if found is not None:
        return {name: float(value) for name, value in found.items()}
    except Exception as error:  # whatever Orbax makes of a damaged file
      if describe_trouble(error):  # else the best would be deleted
        raise
      if jax.process_index() == 0 and step not in self._unreadable:
        self._unreadable.add(step)
        print(
          f"warning: the figures of checkpoint {step} cannot be read"
          f" ({first_line(error)}): it does not count as one of the best"
        )
    return None


def open_manager(
  directory: places.Path, best_metric: str, keep_best: int, read_only: bool
) -> Manager:
  """Opens a folder of checkpoints; the arguments are those of `Checkpoints`."""
  if places.is_remote(directory):
    _limit_retries()
  score = lambda metrics: metrics.get(best_metric, -math.inf)
  return Manager(
    directory,
    options=ocp.CheckpointManagerOptions(
      best_fn=score,
      # Best alone could delete the latest, which a resumed run needs.
      preservation_policy=checkpoint_managers.AnyPreservationPolicy(
        [
          checkpoint_managers.LatestN(1),
          checkpoint_managers.BestN(
            get_metric_fn=score,
            n=keep_best,
            keep_checkpoints_without_metrics=False,
          ),
        ]
      ),
      cleanup_tmp_directories=True,
      # A save that has begun is then seen in the folder, even if it is killed.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      read_only=read_only,
    ),
    item_handlers={
      "state": ocp.StandardCheckpointHandler(),
      _ITEM: DigestHandler(),
    },
  )


def _limit_retries() -> None:
  """Lets TensorStore give up a request after half a minute, as gcsfs does.

  It would try for a quarter of an hour, and Orbax has no option for it.
  """
  from orbax.checkpoint._src.serialization import tensorstore_utils

  for context in (
    tensorstore_utils._BASE_TS_CONTEXT,
    tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT,
  ):
    context["gcs_request_retries"] = _RETRIES


def read_digests(folder: places.Path, step: int) -> dict[str, str]:
  """The digests of a checkpoint's arrays, by name.

  Args:
    folder: of the checkpoint.
    step: of the checkpoint.

  Returns:
    None of them for a checkpoint of an earlier version.

  Raises:
    ValueError: they are damaged, or of another checkpoint.
    OSError: they cannot be read.
  """
  path = folder / _ITEM
  if not places.exists(path):
    return {}
  found = DigestHandler().restore(path)
  if found.get("step") != step:
    raise ValueError(f"it is that of step {found.get('step')}")
  return found["arrays"]
