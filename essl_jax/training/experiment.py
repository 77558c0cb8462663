"""An experiment: the parts that a config describes, checked and built."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from essl_jax import augment, data, optim
from essl_jax import config as config_lib
from essl_jax.augment import ViewRequest
from essl_jax.data import arrays
from essl_jax.devices import parallel
from essl_jax.models.layers import attention, convolution, dense
from essl_jax.training import (
  checks,
  description,
  online,
  parameter_groups,
  warnings,
)
from essl_jax.training import networks as networks_lib
from essl_jax.training import step as step_lib
from essl_jax.training import views as views_lib
from essl_jax.training.problem import Problem

# Enough to hide the host's work; progress and stops come between programs.
_MOST_STEPS = 256


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything a run needs, built from its config alone.

  Attributes:
    config: the run's config.
    mesh: over all devices that run it.
    source: of images.
    labelled: source of labelled training images, for kNN and probes; `source`
      itself if its images are labelled.
    networks: encoder, the method and the active terms, and their heads.
    groups: the optimiser's parameter groups.
    steps_per_epoch: the last, incomplete batch is dropped.
  """

  config: config_lib.Config
  mesh: Mesh
  source: data.Source
  labelled: data.Source
  networks: networks_lib.Networks
  groups: Mapping[str, optim.Group]
  steps_per_epoch: int

  @property
  def total_steps(self) -> int:
    """Steps of the whole pre-training."""
    return self.config.epochs * self.steps_per_epoch

  @property
  def parts(self) -> tuple[Any, ...]:
    """The method and the active terms."""
    return (self.networks.method, *self.networks.terms)

  @property
  def requests(self) -> list[ViewRequest]:
    """The views that the parts ask for."""
    return views_lib.union(self.parts, self.config.views)

  @property
  def frozen(self) -> tuple[str, ...]:
    """Paths of the encoder's parameters that are not trained."""
    own = getattr(self.networks.encoder, "frozen_parameters", ())
    return tuple(f"encoder/{path}" for path in own)

  @property
  def clip(self) -> optim.Clip | None:
    """How gradients are clipped; None if they are not."""
    return parameter_groups.clip(self.config, self.networks.aside_heads)

  @property
  def steps_per_dispatch(self) -> int:
    """Steps that the devices do as one program; at most what the config allows.

    An epoch is divided into as few and as equal programs as possible: 97 steps
    with at most 50 a program become 49 and 48.
    """
    most = self.config.steps_per_dispatch
    if most is None:
      is_cpu = self.mesh.devices.flat[0].platform == "cpu"
      is_held = isinstance(self.source, arrays.ArraySource)
      most = _MOST_STEPS if is_held and not is_cpu else 1
    programs = math.ceil(self.steps_per_epoch / most)
    return math.ceil(self.steps_per_epoch / programs)

  @property
  def encodings_per_image(self) -> int:
    """How often a step encodes each source image."""
    channels = self.source.image_shape[2]
    views = jax.eval_shape(lambda: views_lib.blank(self.requests, channels))
    return sum(images.shape[0] for images in views.images.values()) // 2

  @property
  def crops(self) -> dict[str, augment.View] | None:
    """Views by name that the host crops; None where the step does it."""
    if not self.source.differs_in_size:
      return None
    return views_lib.crops(self.requests)

  @property
  def facts(self) -> dict[str, Any]:
    """Counts of the data that must be the same in all processes."""
    sizes = {
      f"number of {split} images": self.source.num_examples(split)
      for split in ("train", "test")
    }
    return sizes | {
      "number of labelled images": self.labelled.num_examples("train"),
      "number of classes": self.source.num_classes,
    }

  @property
  def name(self) -> str:
    """Method, data and lambda in a few words."""
    config = self.config
    if not config.epochs:
      return f"{config.data.name} without pre-training"
    terms = [x for x in self.networks.terms if not x.is_aside]
    weights = ", ".join(f"{x.weight:g}" for x in terms) or "0"
    prefix = "E-" if terms else ""
    return f"{prefix}{config.method} on {config.data.name}, lambda {weights}"

  @property
  def warnings(self) -> list[str]:
    """Settings that are allowed but probably not meant, a line each."""
    found = warnings.find(self.config, self.parts, self.networks.encoder)
    return [*found, *warnings.without_labels(self.config, self.labelled)]

  @property
  def evaluations(self) -> list[Any]:
    """The config's evaluations; without labels, those that need none."""
    found = config_lib.evaluations(self.config)
    has_labels = self.labelled.num_classes > 0
    return [x for x in found if has_labels or not x.needs_labels]

  def describe(self, params: Any) -> list[str]:
    """Says what is about to run, where, and how each parameter is trained."""
    return description.describe(self, params)

  def problem(self, axis_name: str | None = parallel.AXIS) -> Problem:
    """What the step trains."""
    return Problem(
      self.networks,
      optim.make_optimizer(self.groups, self.frozen, self.clip),
      self.groups["weights"].learning_rate,
      total_steps=max(self.total_steps, 1),
      steps_per_epoch=self.steps_per_epoch,
      micro_batches=self.config.micro_batches,
      axis_name=axis_name,
    )

  @functools.cached_property
  def _create(self) -> Callable[[Any], step_lib.TrainState]:
    """Traced once: a run also creates a state to restore a checkpoint into."""
    return step_lib.make_create_state(
      self.problem(),
      requests=self.requests,
      channels=self.source.image_shape[2],
    )

  def create_state(self) -> step_lib.TrainState:
    """The replicated state at step 0."""
    state = self._create(np.uint32(self.config.seed))
    return parallel.replicate(state, self.mesh)

  def state_shapes(self) -> step_lib.TrainState:
    """The shapes of `create_state`'s result; allocates no memory."""
    return jax.eval_shape(self._create, np.uint32(0))

  @functools.cached_property
  def encode(self) -> Callable[[Any, jax.Array], jax.Array]:
    """The frozen encoder of one device's images; see `step.make_encode`."""
    features = self.config.evaluate_features
    return step_lib.make_encode(self.networks.encoder, features)

  @functools.cached_property
  def mapped_encode(self) -> Callable[[Any, jax.Array], jax.Array]:
    """The compiled `encode` over the mesh, traced once for all evaluations."""
    return parallel.map_examples(self.encode, self.mesh)

  @functools.cached_property
  def programs(self) -> dict[Any, Callable]:
    """The steps that `dispatch` has made, by their views; each traced once."""
    return {}

  def pure_step(
    self, prepare: views_lib.Prepare | None = None
  ) -> Callable[[step_lib.TrainState, Any], Any]:
    """The step of one device's share; `prepare` replaces the augmentation."""
    if prepare is None:
      prepare = views_lib.make_views(
        self.requests, parallel.AXIS, labels=self.networks.needs_labels
      )
    return step_lib.make_train_step(self.problem(), prepare)

  def make_step(self, prepare: views_lib.Prepare | None = None) -> Any:
    """The compiled `pure_step` over the mesh."""
    return parallel.map_step(self.pure_step(prepare), self.mesh)

  def batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """Endless global batches on the devices, starting at a step."""
    if isinstance(self.source, arrays.ArraySource):
      held, rows = self.held_batches(start_step)
      return parallel.stream_from_memory(held, rows, self.mesh)
    options: dict[str, Any] = {}
    if self.source.differs_in_size:
      options = views_lib.crop_options(self.requests, self.config.batch_size)
    host = self.source.batches(
      batch_size=self.config.batch_size,
      seed=self.config.seed,
      start_step=start_step,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      **options,
    )
    return parallel.stream(host, self.mesh)

  def held_batches(
    self, start_step: int
  ) -> tuple[dict[str, np.ndarray], Iterator[np.ndarray]]:
    """All images, for the devices to hold, and each step's rows of them."""
    assert isinstance(self.source, arrays.ArraySource)
    held = {
      "image": self.source.train_images,
      "label": self.source.train_labels,
    }
    rows = self.source.indices(
      batch_size=self.config.batch_size,
      seed=self.config.seed,
      start_step=start_step,
    )
    return held, rows


def _terms(config: config_lib.Config, source: data.Source) -> list[Any]:
  """The active terms, and the online classifier where it is asked for."""
  terms = networks_lib.active_terms(config)
  if not config.online_classifier:
    return terms
  return [online.OnlineClassifier(num_classes=source.num_classes), *terms]


def build(
  config: config_lib.Config,
  source: data.Source | None = None,
  mesh: Mesh | None = None,
) -> Experiment:
  """Checks a config against the machine and the data, and builds its parts.

  Args:
    config: from `config.parse`.
    source: of images; the one that the config names if None.
    mesh: of the devices to run on, or only to compile for; all devices if None.

  Returns:
    The parts.

  Raises:
    UsageError: the machine or the data cannot do what the config asks for.
  """
  networks_lib.check_parts(config)
  mesh = parallel.make_mesh() if mesh is None else mesh
  checks.check_batch(config, mesh)
  if source is None:
    source = data.open_source(config.data, config_lib.source_fields(config))
  labelled = data.open_labelled(config, source)
  platform = mesh.devices.flat[0].platform
  steps_per_epoch = checks.steps_per_epoch(config, source)
  experiment = Experiment(
    config=config,
    mesh=mesh,
    source=source,
    labelled=labelled,
    networks=networks_lib.make_networks(
      config,
      _terms(config, source),
      axis_name=parallel.AXIS,
      conv_general_dilated=convolution.default_conv(platform),
      dot_general=dense.default_dot_general(platform),
      dot_product_attention=attention.default_attention(platform),
    ),
    groups=parameter_groups.make(config, steps_per_epoch),
    steps_per_epoch=steps_per_epoch,
  )
  checks.check(experiment)
  return experiment
