"""Encodes the images of an experiment with the frozen encoder of a state."""

from collections.abc import Callable, Iterator
import contextlib
import functools
from typing import Any

import numpy as np

from essl_jax.data import Source, subsets
from essl_jax.evaluation import features
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib

BATCH = 256  # images a device encodes at once
Interrupt = Callable[[], None]


class Encoding:
  """Features of the states of one experiment; compiles each part once.

  Attributes:
    experiment: whose images and encoder.
    encode: the frozen encoder of one device's images.
    pixels: `mean` and `std`, by which images are normalised.
    resize: (shorter side, centre crop) before that; None leaves the size.
  """

  def __init__(self, experiment: experiment_lib.Experiment):
    self.experiment = experiment
    self.encode = experiment.encode
    view = experiment.config.views.first
    self.pixels: dict[str, Any] = {"mean": view.mean, "std": view.std}
    is_sized = experiment.labelled.image_shape[:2] == (view.size, view.size)
    self.resize = None if is_sized else (view.size, view.size)
    self._state: step_lib.TrainState | None = None
    self._fingerprint = ""
    self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}

  @functools.cached_property
  def bank(self) -> Source:
    """The source whose training images are the bank of kNN."""
    source = self.experiment.labelled
    knn = getattr(self.experiment.config, "knn", None)
    number = knn.bank_images if knn else 0
    return subsets.sample(source, number) if number else source

  @functools.cached_property
  def sample(self) -> Source:
    """The source with the images of both splits that `measures` counts."""
    source, number = self.experiment.labelled, self.experiment.config.measures
    for split in ("train", "test"):
      source = subsets.sample(source, number.images, split)
    return source

  def features(
    self,
    state: step_lib.TrainState,
    split: str,
    interrupt: Interrupt = lambda: None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a split: features float32 [N, F] and labels int32 [N].

    Args:
      state: whose encoder.
      split: "train", "test", or "bank" for the training images of kNN.
      interrupt: called before every batch; may raise.

    Returns:
      Features and labels.
    """
    variables = step_lib.encoder_variables(state)
    if split in self._kept:
      if state is self._state:
        return self._kept[split]
      if features.fingerprint(variables) == self._fingerprint:
        return self._kept[split]
    found = self.extract(variables, split, self.resize, interrupt)
    if state is self._state:
      self._kept[split] = found
    return found

  @contextlib.contextmanager
  def remembering(
    self, state: step_lib.TrainState, *, keep: bool = False
  ) -> Iterator[None]:
    """Features of a state are computed once within.

    Args:
      state: whose encoder.
      keep: remembers them afterwards too, for a state of the same encoder.
    """
    if state is not self._state:
      variables = step_lib.encoder_variables(state)
      if not self._kept or features.fingerprint(variables) != self._fingerprint:
        self._kept = {}
      self._state = state
    try:
      yield
    finally:
      self._state = None
      self._fingerprint = ""
      if keep and self._kept:
        variables = step_lib.encoder_variables(state)
        self._fingerprint = features.fingerprint(variables)
      else:
        self._kept = {}

  def extract(
    self,
    variables: Any,
    split: str,
    resize: tuple[int, int] | None,
    interrupt: Interrupt = lambda: None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a split with given variables and size of images."""
    mesh = self.experiment.mesh
    is_bank = split == "bank"
    return features.extract(
      self.experiment.mapped_encode,
      variables,
      self.bank if is_bank else self.experiment.labelled,
      "train" if is_bank else split,
      batch_size=BATCH * mesh.size,
      resize=resize,
      mesh=mesh,
      interrupt=interrupt,
      **self.pixels,
    )
