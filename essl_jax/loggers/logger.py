"""The interface of a logger: what shows a run's figures and pictures."""

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
  """What a logger is told when it is opened.

  Attributes:
    folder: of this machine, to write into. With a workdir in a bucket, what
      lies there is sent with every checkpoint and at the end.
    name: of the run.
    step: the step that training goes on from; None where nothing is trained.
    config: of the run, nested.
    kept: what `keep` was given at an earlier start; empty at first.
    keep: remembers names and texts in the workdir, such as the run's id.
  """

  folder: pathlib.Path
  name: str
  step: int | None
  config: Mapping[str, Any]
  kept: Mapping[str, str]
  keep: Callable[[Mapping[str, str]], None]


class Log:
  """An opened logger. All but `write` may stay as they are.

  Attributes:
    where: where the run can be watched; told to the user.
  """

  where: str = ""

  def write(self, step: int, figures: Mapping[str, float], time: float) -> None:
    """Takes figures of a step; NaN and infinities occur.

    Args:
      step: number of updates done; may be one that was written before.
      figures: by name.
      time: seconds since 1970.
    """
    raise NotImplementedError(f"{type(self).__name__} needs write")

  def picture(self, step: int, name: str, png: bytes) -> None:
    """Takes a PNG file; `name` has parts between slashes."""
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
      labels: N names of classes; none where images have no labels.
      images: uint8 [N, S, S, 3]; None where they are not at hand.
    """
    del step, features, labels, images

  def flush(self) -> None:
    """Writes to `Start.folder` what was taken so far."""

  def close(self, is_finished: bool) -> None:
    """Ends; `is_finished` is False where the run has failed or was stopped."""
    del is_finished


class Logger(Part):
  """One kind of logger; its fields are its config.

  Attributes:
    section: the name of its group of fields, of the class if not stated.
    in_workdir: whether it writes plain files to `Start.folder` and does nothing
      else. It is then called by the training itself, and what the disk refuses
      ends the run, as for any file of a workdir. All other loggers are called
      from a thread, in order: neither their time nor their failures cost the
      run anything.
  """

  in_workdir: ClassVar[bool] = False

  def check(self) -> None:
    """Raises UsageError before a run begins, such as for a missing package."""

  @abc.abstractmethod
  def open(self, start: Start) -> Log:
    """Begins to log, or goes on.

    Args:
      start: of the run.

    Returns:
      What takes the figures.
    """


def need(package: str, extra: str) -> None:
  """Imports an optional package, which may take seconds.

  Args:
    package: its name.
    extra: of this library, which installs it.

  Raises:
    UsageError: it is not installed, or cannot be imported.
  """
  found = importlib.util.find_spec(package)
  # A folder of that name, such as one that it has written, is found as well.
  if found is None or found.origin is None:
    raise UsageError(
      f"config.loggers names {package}, which is not installed: pip install"
      f" 'essl-jax[{extra}]'"
    )
  with told(f"config.loggers: {package} cannot be imported"):
    importlib.import_module(package)
