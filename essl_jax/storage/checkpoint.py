"""Checkpoints of a run.

A workdir holds `config.json` and `checkpoints/<step>/`. Orbax renames a
checkpoint once it is complete, so a process killed while saving leaves nothing
that could be restored by mistake. Each checkpoint stores digests of its arrays,
which reveal damage; checkpoints of earlier versions have none.
"""

from collections.abc import Callable, Iterable, Mapping
import math
import os
from typing import Any, Self

import jax
from jax.experimental import multihost_utils
import orbax.checkpoint as ocp

from essl_jax.errors import UsageError
from essl_jax.storage import (
  bookkeeping,
  claim,
  damage,
  digest,
  manager,
  places,
)
from essl_jax.storage.workdir import write_json
from essl_jax.texts import first_line


def exists(workdir: str | os.PathLike[str]) -> bool:
  """Returns whether a workdir holds a complete checkpoint."""
  return bookkeeping.has_checkpoint(workdir)


class Checkpoints:
  """The latest and the best checkpoints of a run, written in the background.

  Every process of a run creates one and calls the same methods in the same
  order; Orbax divides the writing. All processes must share the directory.

  Attributes:
    restored: the step of the last restored checkpoint.

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
    """Opens `<workdir>/checkpoints` and removes half-written saves.

    Args:
      workdir: directory of the run.
      best_metric: the figure that ranks checkpoints; larger is better.
      keep_best: how many of the best to keep besides the latest.
      read_only: never writes or renames, for use beside a running training.
    """
    self._directory = places.locate(workdir) / "checkpoints"
    self._best_metric = best_metric
    self._is_read_only = read_only
    self.restored: int | None = None
    claim.check_name(self._directory)
    damage.check_regular(self._directory)
    try:
      self._manager = manager.open_manager(
        self._directory, best_metric, keep_best, read_only
      )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
      raise UsageError(
        f"cannot open {self._directory}: {first_line(error)}: remove"
        f" {manager.DESCRIPTION} from its folders (checkpoints do not need it)"
      ) from error

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    """Waits for the last save and raises its error, if any."""
    self._manager.close()

  def save(
    self,
    step: int,
    state: Any,
    metrics: Mapping[str, float] | None = None,
    *,
    wait: bool = False,
  ) -> bool:
    """Saves the state; returns once it is copied, while writing continues.

    A checkpoint never changes after it was written: saving a step again does
    nothing, whatever the metrics. So evaluate first, then save with the
    figures; `rank` adds them later if there was no time.

    Args:
      step: number of updates the state has seen; not below the latest step.
      state: pytree of `jax.Array`; it may be donated as soon as this returns.
      metrics: figures to store. If `best_metric` is among them and finite, the
        checkpoint is a candidate for the best; otherwise they are not stored.
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
      is_mine = jax.process_index() == 0
      arrays = digest.copies(_by_name(state)) if is_mine else {}
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          digests=manager.Digests(step, arrays),
        ),
        metrics=self._ranking(metrics),
        force=True,
      )
    if wait:
      self._manager.wait_until_finished()
    return is_new

  def rank(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds figures to a checkpoint that was saved without them.

    Args:
      step: of the checkpoint.
      metrics: as for `save`.
    """
    figures = self._ranking(metrics)
    if figures is not None and jax.process_index() == 0:
      # Orbax looks for them here; the folder does not exist without its file.
      folder = self._directory / str(step) / "metrics"
      if not places.is_remote(folder):
        folder.mkdir(exist_ok=True)
      write_json(folder / "metrics", figures)
    multihost_utils.sync_global_devices(f"figures of step {step}")
    self._manager.reload()

  def _ranking(
    self, metrics: Mapping[str, float] | None
  ) -> dict[str, float] | None:
    """Returns the figures if they rank a checkpoint, else None."""
    figures = {name: float(x) for name, x in (metrics or {}).items()}
    is_ranked = math.isfinite(figures.get(self._best_metric, math.nan))
    return figures if is_ranked else None

  def latest_step(self) -> int | None:
    """Returns the last saved step, or None; it may still be being written."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Returns the best step by `best_metric`, or None if none has it."""
    return self._manager.best_step()

  def choose(self, which: str) -> int:
    """Returns the step of the `latest` or of the `best` checkpoint.

    Args:
      which: `latest` or `best`.

    Raises:
      UsageError: there is no such checkpoint.
    """
    return self._candidates(which)[0]

  def _candidates(self, which: int | str) -> list[int]:
    """Returns the steps to try, in order."""
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      raise UsageError(
        f"no checkpoint in {self._directory}: train first, or choose the"
        " --workdir of a run that saved one"
      )
    if isinstance(which, int):
      if which not in steps:
        there = ", ".join(map(str, reversed(steps)))
        raise UsageError(
          f"no checkpoint of step {which} in {self._directory}: choose one of"
          f" {there}"
        )
      return [which]
    if which == "best":
      figures = {step: self._figure(step) for step in steps}
      steps = [step for step in steps if math.isfinite(figures[step])]
      best = self._manager.best_step()
      steps.sort(key=lambda step: (step == best, figures[step]), reverse=True)
    if not steps:
      raise UsageError(
        f"no checkpoint in {self._directory} has the figure"
        f" {self._best_metric}: choose the latest checkpoint"
      )
    return steps

  def _figure(self, step: int) -> float:
    """Returns the figure that ranks a checkpoint; NaN if it has none."""
    return (self._manager.metrics(step) or {}).get(self._best_metric, math.nan)

  def restore_arrays(self, step: int | str = "latest") -> Any:
    """Restores a state without knowing its structure.

    Args:
      step: as for `restore`.

    Returns:
      Nested dicts of NumPy arrays, whatever machine saved them.

    Raises:
      UsageError: there is no such checkpoint, or none is readable.
    """
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return self._first_whole(
      step, lambda step: jax.device_get(self._read(step, lambda _: here))
    )

  def restore(self, like: Any, step: int | str = "latest") -> Any:
    """Restores a state, bit for bit.

    Args:
      like: pytree of `jax.Array` (or `jax.ShapeDtypeStruct` with sharding)
        with the structure, shapes, dtypes and shardings to return.
      step: a number, `latest` or `best`. If the latest or the best is damaged,
        the next one takes its place: a warning says so, and `restored` is its
        step. Damaged ones are renamed, except in a `read_only` folder.

    Returns:
      The stored values in the form of `like`.

    Raises:
      UsageError: there is no such checkpoint, none is readable, or it holds
        other arrays.
    """
    wanted = _by_name(like)

    def read(step: int) -> Any:
      place = lambda name: wanted[name].sharding
      found = _by_name(self._read(step, place, wanted))
      return jax.tree_util.tree_map_with_path(
        lambda path, _: found[_name(path)], like
      )

    return self._first_whole(step, read)

  def _first_whole(self, which: int | str, read: Callable[[int], Any]) -> Any:
    """Reads the first readable candidate."""
    self._manager.wait_until_finished()
    damaged: dict[int, str] = {}
    for step in self._candidates(which):
      found, why = damage.attempt(read, step, self._directory / str(step))
      if not why:
        break
      damaged[step] = f"the checkpoint of step {step} is damaged ({why})"
    told = "; ".join(damaged.values())
    if step in damaged:
      raise UsageError(
        f"{told}: {self._directory} holds no other: put a copy in its place, or"
        " train in another --workdir"
      )
    if damaged:
      self._pass_over(damaged, f"{told}: using that of step {step} instead")
    self.restored = step
    return found

  def _pass_over(self, damaged: Iterable[int], told: str) -> None:
    """Warns about damaged checkpoints and renames them."""
    if jax.process_index() == 0:
      if not self._is_read_only:
        paths = [self._directory / str(step) for step in damaged]
        new = [bookkeeping.set_aside(path).name for path in paths]
        told += f", renamed to {', '.join(new)}"
      print(f"warning: {told} ({self._directory})")
    if not self._is_read_only:
      multihost_utils.sync_global_devices("essl_jax_checkpoints_set_aside")
      self._manager.reload()

  def _read(
    self,
    step: int,
    place: Callable[[str], jax.sharding.Sharding],
    wanted: Mapping[str, Any] | None = None,
  ) -> Any:
    """Reads a state in its stored structure; places its arrays by name.

    The structure of `like` may differ where it holds no arrays: other versions
    have other empty fields and groups.
    """

    def abstract(path: Any, x: Any) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(_name(path)))

    digests = manager.read_digests(self._directory / str(step), step)
    stored = self._manager.item_metadata(step)["state"].tree
    damage.check_forms(digests, _by_name(stored))
    if wanted is not None:
      damage.check_network(
        _by_name(stored), wanted, self._directory / str(step)
      )
    asked = jax.tree_util.tree_map_with_path(abstract, stored)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(asked))
    found = self._manager.restore(step, args=args)["state"]
    damage.check_arrays(digests, _by_name(found))
    return found


def _name(path: Any) -> str:
  """Returns an array's name, such as `params/encoder/kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_name(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_name(path): leaf for path, leaf in leaves}
