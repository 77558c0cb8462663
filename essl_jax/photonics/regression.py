"""Fine-tuning for the density of states of photonic crystals.

Protocol (E-SSL's photonics program, arXiv 2111.00899, section 5): Adam trains
all weights on n labelled cells under random symmetries, with the squared error
on the density minus that of free space. The original reports the smallest test
error over all epochs and several pre-training checkpoints. Here the epoch is
chosen on validation cells, and the minimum over the epochs of the last
checkpoint is reported separately.
"""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any

from jax.sharding import Mesh
import numpy as np

from essl_jax.data.checks import check_there
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation import fitting
from essl_jax.evaluation.saved import Saved
from essl_jax.photonics import density as density_lib
from essl_jax.photonics.regressor import (
  EMPTY_LATTICE,
  PICTURED,
  Problem,
  Trainer,
)
from essl_jax.photonics.source import LabelledCells


def run(
  problem: Problem,
  mesh: Mesh,
  *,
  seed: int = 0,
  progress: Callable[[int, int], None] | None = None,
  workdir: pathlib.Path | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
  """Trains for each number of labelled cells and each repetition.

  Drops the last, incomplete batch of an epoch.

  Args:
    problem: what to train.
    mesh: devices that share each batch.
    seed: seed for cells, weights, order and augmentation.
    progress: called after each step with the steps done and in total; may
      raise.
    workdir: keeps finished repetitions in `probe/`, so that a stopped
      evaluation resumes there; None keeps nothing.

  Returns:
    Two results. First, figures with their protocol: errors in percent,
    including the error of predicting free space for every test cell. Second,
    the densities that the first repetition with the most labelled cells
    predicts for the first `PICTURED` test cells, [PICTURED, 400].

  Raises:
    UsageError: as in `check`.
    FloatingPointError: a training diverges.
  """
  settings, cells = problem.settings, problem.cells
  check(settings, cells, mesh)
  runs = [
    (count, repetition)
    for count in settings.labelled
    for repetition in range(settings.repetitions)
  ]
  described = _describe(problem, seed)
  pictured = min(PICTURED, len(cells["test"]))
  path = workdir / "probe" / "regression.npz" if workdir else None
  columns = 2 * settings.epochs + pictured * density_lib.NUM_TARGETS
  saved = Saved(path, mesh, columns, np.float32)
  start = None
  if problem.encoder is not None:
    start = features_lib.fingerprint(problem.encoder)
  saved.claim({**described, "runs": runs, "encoder": start})
  seeded = [(count, fitting.repetition_seed(seed, i)) for count, i in runs]
  rows = Trainer(problem, mesh).train(seeded, saved=saved, progress=progress)
  curves: np.ndarray = np.asarray(rows)[:, : 2 * settings.epochs]
  curves = curves.reshape(len(settings.labelled), settings.repetitions, 2, -1)
  most = settings.repetitions * int(np.argmax(settings.labelled))
  samples = np.asarray(rows[most][2 * settings.epochs :], np.float32)
  by_labelled = {
    str(count): summarise(*np.moveaxis(each, 1, 0))
    for count, each in zip(settings.labelled, curves, strict=True)
  }
  density = cells["test"].density
  free = np.broadcast_to(EMPTY_LATTICE, density.shape)
  figures = {
    "by_labelled": by_labelled,
    "dos_error_of_free_space": 100 * density_lib.relative_error(free, density),
  } | described
  return figures, samples.reshape(pictured, density_lib.NUM_TARGETS)


def summarise(validation: np.ndarray, test: np.ndarray) -> dict[str, Any]:
  """Summarises the repetitions with one number of labelled cells.

  Args:
    validation: validation error after each epoch, as a fraction, [repetitions,
      epochs].
    test: test error after each epoch, likewise.

  Returns:
    In percent: `dos_error`, the test error at the epoch with the lowest
    validation error; `dos_error_validation`, that validation error; and
    `dos_error_minimum_over_test`, the lowest test error of all epochs (the
    original also takes the minimum over pre-training checkpoints). Each is the
    mean over repetitions, with the sample standard deviation as `_std` (0 for
    one repetition) and the single values as `_each`. `epoch_each` holds the
    chosen epochs, from 1.
  """
  epochs = np.argmin(validation, axis=1)
  chosen = np.arange(len(epochs)), epochs
  figures: dict[str, Any] = {}
  for name, values in (
    ("dos_error", test[chosen]),
    ("dos_error_validation", validation[chosen]),
    ("dos_error_minimum_over_test", test.min(axis=1)),
  ):
    figures |= fitting.spread(name, [100 * float(x) for x in values])
  return figures | {"epoch_each": [int(x) + 1 for x in epochs]}


def check(
  settings: Any, cells: Mapping[str, LabelledCells], mesh: Mesh
) -> None:
  """Checks the settings of a training before anything is computed.

  Args:
    settings: settings of the regression.
    cells: labelled cells by split.
    mesh: devices that share each batch.

  Raises:
    UsageError: there are fewer labelled cells than requested, fewer than in a
      batch, or the devices cannot divide a batch.
  """
  there = len(cells["train"])
  field = "regression.batch_size"
  parallel.check_batch_size(settings.batch_size, mesh, field=field)
  for count in settings.labelled:
    if count > there:
      raise UsageError(
        f"config.regression.labelled asks for {count:,} cells, but the split"
        f" train has {there:,}: give at most that many, or generate more"
      )
    check_there(field, settings.batch_size, count, "labelled cells")


def _describe(problem: Problem, seed: int) -> dict[str, Any]:
  """Describes the protocol."""
  is_new = problem.encoder is None
  fields = dataclasses.asdict(problem.settings)
  fields["labelled"] = list(problem.settings.labelled)
  return fields | {
    "initial_weights": "random" if is_new else "pre-trained encoder",
    "seed": seed,
    "optimizer": "Adam, constant learning rate",
    "loss": "mean squared error on the density minus that of free space",
    "augmentation": list(problem.view.groups),
    "selection": "epoch of the smallest validation error",
    "unit": "percent, points 100 to 399",
    "num_train": len(problem.cells["train"]),
    "num_validation": len(problem.cells["validation"]),
    "num_test": len(problem.cells["test"]),
  }
