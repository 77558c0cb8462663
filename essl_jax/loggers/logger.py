"""The interface of a logger, which shows a run's figures and pictures."""

import abc
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib
import importlib.util
import pathlib
from typing import Any, ClassVar

import numpy as np

from essl_jax.config.parts import Part
from essl_jax.errors import UsageError, told


@dataclasses.dataclass(frozen=True)
class Start:
  """Information that a logger gets when it is opened.

  Attributes:
    folder: on this machine, to write into. If the workdir is in a bucket, the
      folder's files are sent with every checkpoint and at the end.
    name: of the run.
    step: the step from which training starts; None if nothing is trained.
    config: of the run, nested.
    kept: what an earlier start passed to `keep`; empty at first.
    keep: stores texts by name in the workdir, such as the run's id.
  """

  folder: pathlib.Path
  name: str
  step: int | None
  config: Mapping[str, Any]
  kept: Mapping[str, str]
  keep: Callable[[Mapping[str, str]], None]


class Log:
  """An opened logger. Only `write` must be overridden.

  Attributes:
    where: where to watch the run; shown to the user.
  """

  where: str = ""

  def write(self, step: int, figures: Mapping[str, float], time: float) -> None:
    """Takes figures of a step; they may be NaN or infinite.

    Args:
      step: number of updates done; may be one that was written before.
      figures: by name.
      time: seconds since 1970.
    """
    raise NotImplementedError(f"{type(self).__name__} needs write")

  def picture(self, step: int, name: str, png: bytes) -> None:
    """Takes a PNG file; `name` is a path with slashes, such as `final/knn`."""
    del step, name, png

  def embedding(
    self,
    step: int,
    features: np.ndarray,
    labels: Sequence[str],
    images: np.ndarray | None,
  ) -> None:
    """Takes features of images.

    Args:
      step: of the network.
      features: [N, D].
      labels: N class names; empty if the images have no labels.
      images: uint8 [N, S, S, 3], or None.
    """
    del step, features, labels, images

  def flush(self) -> None:
    """Writes everything taken so far to `Start.folder`."""

  def close(self, is_finished: bool) -> None:
    """Ends; `is_finished` is False if the run failed or was stopped."""
    del is_finished


class Logger(Part):
  """One kind of logger; its fields are its config.

  Attributes:
    section: the name of its group of fields; by default that of the class.
    in_workdir: whether it only writes plain files to `Start.folder`. If so,
      training calls it directly, and a disk error ends the run, as for any
      other file of a workdir. All other loggers are called from a thread, in
      order; if they are slow or fail, the run is not affected.
  """

  in_workdir: ClassVar[bool] = False

  def check(self) -> None:
    """Raises UsageError before a run begins, such as for a missing package."""

  @abc.abstractmethod
  def open(self, start: Start) -> Log:
    """Starts logging a run, or resumes it.

    Args:
      start: describes the run.

    Returns:
      The log, which takes the figures.
    """


def need(package: str, extra: str) -> None:
  """Imports an optional package, which may take seconds.

  Args:
    package: its name.
    extra: this library's extra that installs it.

  Raises:
    UsageError: the package is not installed or cannot be imported.
  """
  found = importlib.util.find_spec(package)
  # A folder of that name, such as one the logger wrote, is found too.
  if found is None or found.origin is None:
    raise UsageError(
      f"config.loggers names {package}, which is not installed: pip install"
      f" 'essl-jax[{extra}]'"
    )
  with told(f"config.loggers: {package} cannot be imported"):
    importlib.import_module(package)
