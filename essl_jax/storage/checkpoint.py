"""Checkpoints of a run.

A workdir holds `config.json` and `checkpoints/<step>/`. Orbax renames a
checkpoint when it is whole, so a process that is killed while saving leaves
nothing that could be restored by mistake.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import math
import os
from typing import Any, Self

import jax
from jax.experimental import multihost_utils
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from essl_jax.errors import UsageError
from essl_jax.storage import remarks
from essl_jax.storage.workdir import local_path, write_json
from essl_jax.texts import first_line, some

remarks.hold_back()


def exists(workdir: str | os.PathLike[str]) -> bool:
  """Returns whether a workdir holds a whole checkpoint."""
  folder = local_path(workdir) / "checkpoints"
  return folder.is_dir() and any(x.name.isdigit() for x in folder.iterdir())


class _Manager(ocp.CheckpointManager):
  """Orbax's manager, without its own questions about preemption.

  It asks from a background thread about steps gone by, which moves the step
  that `Preemption` is negotiating between processes.
  """

  def reached_preemption(self, step: int) -> bool:
    """Returns False: `Preemption` alone asks."""
    return False


class Checkpoints:
  """The latest and the best checkpoints of a run, written in the background.

  Every process of a run creates one and calls the same methods in the same
  order; Orbax divides the writing. The directory has to be one they share.

  Example:
    with Checkpoints(workdir) as checkpoints:
      if checkpoints.latest_step() is not None:
        state = checkpoints.restore(like=state)
      ...
      checkpoints.save(step, state, {"knn_top1": 71.3})
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    *,
    best_metric: str = "knn_top1",
    keep_best: int = 1,
    read_only: bool = False,
  ):
    """Opens `<workdir>/checkpoints` and clears away half-written saves.

    Args:
      workdir: directory of the run.
      best_metric: the figure that ranks checkpoints; larger is better.
      keep_best: how many of the best to keep beside the latest.
      read_only: only look and restore, as beside a training that is running.
    """
    self._directory = local_path(workdir) / "checkpoints"
    self._best_metric = best_metric
    score = lambda metrics: metrics.get(best_metric, -math.inf)
    self._manager = _Manager(
      self._directory,
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
        read_only=read_only,
      ),
      item_handlers={"state": ocp.StandardCheckpointHandler()},
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    """Waits for the last save and raises what went wrong with it."""
    self._manager.close()

  def save(
    self,
    step: int,
    state: Any,
    metrics: Mapping[str, float] | None = None,
    *,
    wait: bool = False,
  ) -> bool:
    """Saves the state; returns once it is copied, the writing goes on.

    A checkpoint never changes after it was written: to save a step that is
    there already does nothing, whatever the metrics. So evaluate first, then
    save with the figures; `rank` adds them where there was no time.

    Args:
      step: number of updates the state has seen; not below the latest step.
      state: pytree of `jax.Array`; it may be donated as soon as this returns.
      metrics: figures to store. They make the checkpoint a candidate for the
        best if `best_metric` is among them and finite, else are not stored.
      wait: return only when the checkpoint is complete on disk.

    Returns:
      Whether a checkpoint was written.

    Raises:
      ValueError: if the step is below the latest one.
    """
    is_new = step not in self._manager.all_steps()
    if is_new:
      if step < (self._manager.latest_step() or 0):
        raise ValueError(f"step {step} is below the latest saved")
      self._manager.save(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state)),
        metrics=self._ranking(metrics),
        force=True,
      )
    if wait:
      self._manager.wait_until_finished()
    return is_new

  def rank(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds figures to a checkpoint that was saved without, as by `save`.

    Args:
      step: of the checkpoint.
      metrics: as `save` would have stored them.
    """
    figures = self._ranking(metrics)
    if figures is not None and jax.process_index() == 0:
      # Where Orbax looks for them; `metrics` is missing without its file.
      folder = self._directory / str(step) / "metrics"
      folder.mkdir(exist_ok=True)
      write_json(folder / "metrics", figures)
    multihost_utils.sync_global_devices(f"figures of step {step}")
    self._manager.reload()

  def _ranking(
    self, metrics: Mapping[str, float] | None
  ) -> dict[str, float] | None:
    """Figures that make a checkpoint a candidate for the best, or None."""
    figures = {name: float(x) for name, x in (metrics or {}).items()}
    is_ranked = math.isfinite(figures.get(self._best_metric, math.nan))
    return figures if is_ranked else None

  def latest_step(self) -> int | None:
    """Returns the last step saved, or None. May still be being written."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Returns the step best by `best_metric`, or None if none carries it."""
    return self._manager.best_step()

  def choose(self, which: str) -> int:
    """The step of the `latest` checkpoint, or of the `best` one.

    Args:
      which: `latest` or `best`.

    Raises:
      UsageError: there is no such checkpoint.
    """
    step = self.latest_step()
    if step is None:
      raise UsageError(
        f"no checkpoint in {self._directory}: train first, or choose the"
        " --workdir of a run that has saved one"
      )
    if which == "best":
      step = self.best_step()
    if step is None:
      raise UsageError(
        f"no checkpoint in {self._directory} has the figure"
        f" {self._best_metric}: choose the latest"
      )
    return step

  def restore_arrays(self, step: int) -> Any:
    """Restores a state without knowing its structure.

    Args:
      step: which one; see `choose`.

    Returns:
      Nested dicts of NumPy arrays, whatever machine saved them.
    """
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.device_get(self._read(step, lambda _: here))

  def restore(self, like: Any, step: int | None = None) -> Any:
    """Restores a state, bit for bit.

    Args:
      like: pytree of `jax.Array` (or `jax.ShapeDtypeStruct` with sharding)
        with the structure, shapes, dtypes and shardings to return.
      step: which one; the latest if None.

    Returns:
      The stored values in the form of `like`.

    Raises:
      UsageError: if there is no such checkpoint, or it holds other arrays.
    """
    self._manager.wait_until_finished()
    latest, steps = self.choose("latest"), self._manager.all_steps()
    step = latest if step is None else step
    if step not in steps:
      there = ", ".join(map(str, steps))
      raise UsageError(
        f"no checkpoint of step {step} in {self._directory}: choose one of"
        f" {there}"
      )
    self._check_same_arrays(like, step)
    wanted = _by_name(like)
    found = _by_name(self._read(step, lambda name: wanted[name].sharding))
    return jax.tree_util.tree_map_with_path(
      lambda path, _: found[_name(path)], like
    )

  def _read(
    self, step: int, place: Callable[[str], jax.sharding.Sharding]
  ) -> Any:
    """A state in the structure that was stored, its arrays placed by name.

    That of `like` may differ from it in what holds no arrays: other versions
    have other empty fields and groups.
    """

    def abstract(path: Any, x: Any) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(_name(path)))

    with self._reading(step):
      stored = self._manager.item_metadata(step)["state"].tree
      asked = jax.tree_util.tree_map_with_path(abstract, stored)
      args = ocp.args.Composite(state=ocp.args.StandardRestore(asked))
      return self._manager.restore(step, args=args)["state"]

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    """Says in one line which checkpoint cannot be read."""
    try:
      yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
      raise UsageError(
        f"the checkpoint of step {step} is damaged ({first_line(error)}):"
        f" remove the folder {self._directory / str(step)} to go on from an"
        " older one, if there is any, or train in another --workdir"
      ) from error

  def _check_same_arrays(self, like: Any, step: int) -> None:
    """Raises UsageError naming the first arrays that differ from `like`."""
    with self._reading(step):
      there = _describe_arrays(self._manager.item_metadata(step)["state"].tree)
    here = _describe_arrays(like)
    different = [
      f"{name} is {there.get(name, 'absent')} there, "
      f"{here.get(name, 'absent')} here"
      for name in here | there
      if here.get(name) != there.get(name)
    ]
    if different:
      found = some(different, separator="; ")
      raise UsageError(
        f"checkpoint holds a different network: {found} (step {step} in"
        f" {self._directory}): choose another --workdir or restore the fields"
        " of its config"
      )


def _name(path: Any) -> str:
  """The name of an array, such as `params/encoder/kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_name(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_name(path): leaf for path, leaf in leaves}


def _describe_arrays(tree: Any) -> dict[str, str]:
  """Maps `params/encoder/kernel` to `float32(3,3,3,64)` for every array."""
  return {
    name: f"{leaf.dtype}({','.join(map(str, leaf.shape))})"
    for name, leaf in _by_name(tree).items()
  }
