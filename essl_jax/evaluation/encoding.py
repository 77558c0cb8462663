"""Encodes the images of an experiment with the frozen encoder of a state."""

from collections.abc import Callable, Iterator
import contextlib
from typing import Any

import numpy as np

from essl_jax import config as config_lib
from essl_jax.data import Source, subsets
from essl_jax.data.preprocessing import Preprocessing
from essl_jax.evaluation import features
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib

BATCH = 256  # images that a device encodes at once
Interrupt = Callable[[], None]


class Encoding:
  """Computes features for states of one experiment; compiles each part once.

  Attributes:
    experiment: the experiment whose images and encoder to use.
    encode: the frozen encoder, applied to one device's images.
    preprocessing: how images are prepared.
    pixels: `mean` and `std` for the normalisation of images.
    resize: (shorter side, centre crop) applied before; None keeps the size.
  """

  def __init__(self, experiment: experiment_lib.Experiment):
    self.experiment = experiment
    self.encode = experiment.encode
    config = experiment.config
    self.preprocessing = Preprocessing.of(
      config.data, config.views.first, experiment.labelled.image_shape
    )
    self.pixels = self.preprocessing.pixels
    self.resize = self.preprocessing.resize
    self._state: step_lib.TrainState | None = None
    self._fingerprint = ""
    # Features and labels by split and number of images.
    self._kept: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
    self._samples: dict[tuple[int, int], Source] = {}

  def some(self, train: int = 0, test: int = 0) -> Source:
    """The labelled source with this many images per split; 0 means all."""
    if (train, test) not in self._samples:
      source = self.experiment.labelled
      source = subsets.sample(source, train) if train else source
      source = subsets.sample(source, test, "test") if test else source
      self._samples[train, test] = source
    return self._samples[train, test]

  @property
  def sample(self) -> Source:
    """The source with `config.measures.images` images of each split."""
    number = self.experiment.config.measures.images
    return self.some(number, number)

  @property
  def sources(self) -> tuple[Source, ...]:
    """All sources that were read here."""
    return tuple(self._samples.values())

  def variables(self, state: step_lib.TrainState) -> dict[str, Any]:
    """Variables of the measured encoder; see `config.evaluate_network`."""
    network = config_lib.evaluated_network(self.experiment.config)
    return step_lib.encoder_variables(state, network)

  def features(
    self,
    state: step_lib.TrainState,
    split: str,
    interrupt: Interrupt = lambda: None,
    *,
    images: int = 0,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a split: features float32 [N, F] and labels int32 [N].

    Args:
      state: the state whose encoder to use.
      split: "train" or "test".
      interrupt: called before every batch; may raise.
      images: number of images of the split, a fixed choice (see
        `data.subsets.sample`); 0 means all.

    Returns:
      Features and labels.
    """
    source = self.some(**{split: images})
    key = split, source.num_examples(split)
    variables = self.variables(state)
    if key in self._kept:
      if state is self._state:
        return self._kept[key]
      if features.fingerprint(variables) == self._fingerprint:
        return self._kept[key]
    found = self.extract(variables, split, self.resize, interrupt, source)
    if state is self._state:
      self._kept[key] = found
    return found

  def remembered(
    self, state: step_lib.TrainState, split: str
  ) -> tuple[np.ndarray, np.ndarray] | None:
    """What `features` has found of a whole split, or None if nothing did."""
    key = split, self.experiment.labelled.num_examples(split)
    return self._kept.get(key) if state is self._state else None

  @contextlib.contextmanager
  def remembering(
    self, state: step_lib.TrainState, *, keep: bool = False
  ) -> Iterator[None]:
    """Computes the features of a state only once within the context.

    Args:
      state: the state whose encoder to use.
      keep: whether to keep them afterwards, for a state with the same encoder.
    """
    if state is not self._state:
      variables = self.variables(state)
      if not self._kept or features.fingerprint(variables) != self._fingerprint:
        self._kept = {}
      self._state = state
    try:
      yield
    finally:
      self._state = None
      self._fingerprint = ""
      if keep and self._kept:
        variables = self.variables(state)
        self._fingerprint = features.fingerprint(variables)
      else:
        self._kept = {}

  def extract(
    self,
    variables: Any,
    split: str,
    resize: tuple[int, int] | None,
    interrupt: Interrupt = lambda: None,
    source: Source | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a split with given variables and image size."""
    mesh = self.experiment.mesh
    return features.extract(
      self.experiment.mapped_encode,
      variables,
      self.some() if source is None else source,
      split,
      batch_size=BATCH * mesh.size,
      resize=resize,
      mesh=mesh,
      interrupt=interrupt,
      **self.pixels,
    )
