"""Sets up Orbax's checkpoint manager for a run, with digests of arrays."""

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

DESCRIPTION = "_CHECKPOINT_METADATA"  # Orbax's file in each checkpoint
_ITEM, _FILE = "digests", "digests.json"
# After 1, 2, 4, 8 and 16 seconds.
_RETRIES = {"max_retries": 5, "initial_delay": "1s", "max_delay": "16s"}


remarks.hold_back()


class DigestHandler(ocp.AsyncCheckpointHandler):
  """Computes digests of arrays in the background and writes them."""

  def __init__(self) -> None:
    self._pool = futures.ThreadPoolExecutor(1, "essl_jax_digests")

  async def async_save(self, directory: Any, args: Any) -> list[Any]:
    """Starts to write; returns a future for each pending part."""
    return [self._pool.submit(self.save, directory, args)]

  def save(self, directory: Any, args: Any) -> None:
    """Writes the digests, in process 0."""
    if jax.process_index() == 0:
      found = {name: digest.of(x) for name, x in args.arrays.items()}
      content = {"step": args.step, "arrays": found}
      content["digest"] = digest.of_json(content)
      (directory / _FILE).write_text(json.dumps(content, indent=1) + "\n")

  def restore(self, directory: Any, args: Any = None) -> dict[str, Any]:
    """Reads what `save` wrote; raises ValueError if it is damaged."""
    del args
    found = json_files.read_object(epath.Path(directory) / _FILE)
    arrays = found.get("arrays")
    if not isinstance(arrays, dict) or not all(
      isinstance(x, str) for x in arrays.values()
    ):
      raise ValueError(f"{_FILE} holds no digests")
    own = found.pop("digest", None)  # earlier versions wrote none
    if own is not None and own != digest.of_json(found):
      raise ValueError(f"{_FILE} differs from what was saved")
    return found

  def close(self) -> None:
    """Ends the thread."""
    self._pool.shutdown()


@ocp.args.register_with_handler(DigestHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class Digests(ocp.args.CheckpointArgs):
  """The arrays whose digests to write.

  Attributes:
    step: of the checkpoint.
    arrays: by name, in process 0; nothing else may change them.
  """

  step: int = 0
  arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Manager(ocp.CheckpointManager):
  """Orbax's manager, without its own check for preemption.

  That check asks about past steps from a background thread, which moves the
  step that `Preemption` is negotiating between processes.
  """

  def __init__(self, *arguments: Any, **options: Any) -> None:
    """Like Orbax's, which already calls `metrics`."""
    self._unreadable: set[int] = set()
    super().__init__(*arguments, **options)

  def reached_preemption(self, step: int) -> bool:
    """Returns False: `Preemption` alone asks."""
    return False

  def metrics(self, step: int) -> Any:
    """Returns a checkpoint's figures; warns and returns None if damaged."""
    try:
      found = super().metrics(step)
      if found is not None:
        return {name: float(value) for name, value in found.items()}
    except Exception as error:  # Orbax raises many kinds for a damaged file
      if describe_trouble(error):  # returning None would delete the best
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
      # BestN alone could delete the latest, which a resumed run needs.
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
      # So the folder shows that a save has begun, even if it is killed.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      read_only=read_only,
    ),
    item_handlers={
      "state": ocp.StandardCheckpointHandler(),
      _ITEM: DigestHandler(),
    },
  )


def _limit_retries() -> None:
  """Makes TensorStore give up a request after half a minute, as gcsfs does.

  By default it retries for a quarter of an hour; Orbax has no option for this.
  """
  from orbax.checkpoint._src.serialization import tensorstore_utils

  for context in (
    tensorstore_utils._BASE_TS_CONTEXT,
    tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT,
  ):
    context["gcs_request_retries"] = _RETRIES


def read_digests(folder: places.Path, step: int) -> dict[str, str]:
  """Reads the digests of a checkpoint's arrays.

  Args:
    folder: of the checkpoint.
    step: of the checkpoint.

  Returns:
    Digests by name; empty for a checkpoint of an earlier version.

  Raises:
    ValueError: they are damaged, or belong to another checkpoint.
    OSError: they cannot be read.
  """
  path = folder / _ITEM
  if not places.exists(path):
    return {}
  found = DigestHandler().restore(path)
  if found.get("step") != step:
    raise ValueError(f"its digests are those of step {found.get('step')}")
  return found["arrays"]
