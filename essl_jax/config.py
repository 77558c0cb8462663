"""What a run can be told: the typed form of a config file.

A config file (`configs/*.py`) returns an `ml_collections.ConfigDict`; `parse`
turns it into the frozen dataclasses below, which are all that the program
reads. A field that is not named here is an error.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from essl_jax import augment, config_checks, fields, transformations
from essl_jax.config_data import Data
from essl_jax.config_evaluation import (
  Finetune,
  Knn,
  Measures,
  Probe,
  Regression,
)


@dataclasses.dataclass(frozen=True)
class Views:
  """The three augmented views: two for SSL, the third to be transformed.

  Attributes:
    first: for SSL.
    second: for SSL.
    third: to be transformed.
    extra: one more invariance: a group of `transformations.find_augmentation`.
      Both views for SSL undergo, with probability 1/2 each, one of its elements
      other than the identity; the third does not.
    resolution: stages of growing sizes, pairs of a part of the training, at
      which a stage begins (rounded down to an epoch), and the fraction of all
      views' sizes from there on (rounded to a multiple of 4, 8 or more):
      `((0.0, 0.5), (0.6, 1.0))` trains six tenths of the epochs at half size.
      Empty, sizes are full all the time. Evaluations always see full size.
  """

  first: augment.View
  second: augment.View
  third: augment.View
  extra: str | None = None
  resolution: tuple[tuple[float, float], ...] = ()

  def __post_init__(self) -> None:
    if self.extra is not None:
      try:
        transformations.find_augmentation(self.extra)
      except ValueError as error:
        raise ValueError(f"extra={self.extra!r}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Model:
  """The encoder.

  Attributes:
    name: `resnet`, or `photonic_cnn` for unit cells, which reads of the others
      the width alone.
    depth: 18, 34, 50, 101 or 152 layers.
    stem: `cifar` or `imagenet`.
    width: channels of the first stage; of `photonic_cnn` the whole network
      scales with it, the head of its regression too.
    zero_init_last_norm: starts each block as the identity.
    rematerialize: computes each block again in the backward pass, which saves
      memory.
  """

  name: str = "resnet"
  depth: int = 18
  stem: str = "cifar"
  width: int = 64
  zero_init_last_norm: bool = False
  rematerialize: bool = False


@dataclasses.dataclass(frozen=True)
class Projector:
  """The projector of the SSL loss.

  Attributes:
    widths: of its layers.
    last_norm: after the last layer: `batch`, `batch_not_affine` or `none`.
    bias: whether its linear layers have biases.
  """

  widths: tuple[int, ...] = (2048, 2048)
  last_norm: str = "batch_not_affine"
  bias: bool = False


@dataclasses.dataclass(frozen=True)
class Equivariance:
  """What is predicted, and how much it weighs.

  Attributes:
    group: a name in `transformations.GROUPS`, or a product of several, such as
      `rotation*horizontal_flip`.
    weight: lambda; 0 leaves out view three and the head (the baseline).
    all_elements: applies the whole group to every image, else one random
      element to each.
    heads: `joint`: one head tells all combinations of a product apart; `each`:
      every factor of a product has its own head, their losses are added.
    relative: the head sees the features of two copies of an image and names
      what leads from the first to the second, for images that may lie rotated
      in the data already; for groups whose elements can be undone.
    hidden_widths: hidden layers of the prediction head; none make it linear.
    hidden_norm: after each of them: `layer` or `batch`.
    last_hidden_relu: whether a ReLU follows the head's last hidden norm.
  """

  group: str = "rotation"
  weight: float = 0.4
  all_elements: bool = True
  heads: str = "joint"
  relative: bool = False
  hidden_widths: tuple[int, ...] = (2048, 2048)
  hidden_norm: str = "layer"
  last_hidden_relu: bool = True


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """SGD or LARS with momentum; linear warm-up, then a cosine.

  Attributes:
    name: `sgd`, or `lars`, which spares biases and norms decay and adaptation.
    learning_rate: the peak.
    bias_learning_rate: the peak for biases and norms, where it is another.
    scale_with_batch: rates are per 256 images, multiplied by batch / 256.
    weight_decay: added to the gradient as in PyTorch.
    momentum: of the gradients' running sum.
    trust_coefficient: of LARS alone.
    warmup_epochs: from 0 to the peak.
    end_factor: what part of the peak the cosine ends at.
    update_rate_every: `step` or `epoch`.
  """

  name: str = "sgd"
  learning_rate: float = 0.03
  bias_learning_rate: float | None = None
  scale_with_batch: bool = True
  weight_decay: float = 5e-4
  momentum: float = 0.9
  trust_coefficient: float | None = None
  warmup_epochs: int = 10
  end_factor: float = 0.0
  update_rate_every: str = "step"


@dataclasses.dataclass(frozen=True)
class Config:
  """One run.

  Attributes:
    method: a name in `methods.METHODS`; `none` has no SSL loss, learns by
      predicting transformations alone (RotNet) and reads no field of a loss.
    epochs: of pre-training; 0, for `photonics` alone, leaves it out: the
      regression then begins with random weights, others for each repetition.
    batch_size: images per step, over all devices of all processes.
    micro_batches: how many parts each device divides its images into to save
      memory: the same losses, but batch norm sees one part at a time.
    seed: of weights, data order and augmentations.
    mode: `train`, or `evaluate` or `finetune` an existing workdir (or, in a
      new one, the encoder of `init_from`).
    init_from: Flax weights to begin with, from `python -m essl_jax.convert`:
      the encoder, and the heads whose shapes are the same. Read once, at the
      beginning; a resumed run has its own checkpoints.
    precision: `float32`, or `bfloat16` activations; parameters, statistics
      and losses are float32 either way.
    temperature: of contrastive losses; for methods that have one.
    predictor_hidden: SimSiam's predictor; for methods that have one.
    redundancy_weight: of Barlow Twins' off-diagonal correlations.
    online_classifier: trains a linear classifier of the labels on view 1's
      features alongside, without a gradient into the encoder.
    log_every: steps between two lines of metrics.
    steps_per_dispatch: most steps that the devices do as one program, at
      most an epoch; for images that stay in their memory. Absent, 256 on
      accelerators and 1 on CPUs, which gain nothing by it. Order and draws are
      those of single steps. SIGTERM is noticed between programs, of which two
      may be under way.
    checkpoint_every_epochs: epochs between two checkpoints.
    evaluate_checkpoint: which one the figures at the end are of: `latest`, or
      `best` by the kNN monitor.
  """

  method: str
  data: Data
  views: Views
  epochs: int = 800
  batch_size: int = 512
  micro_batches: int = 1
  seed: int = 0
  mode: str = "train"
  init_from: str | None = None
  precision: str = "float32"
  temperature: float | None = None
  predictor_hidden: int | None = None
  redundancy_weight: float | None = None
  online_classifier: bool = False
  log_every: int = 20
  steps_per_dispatch: int | None = None
  checkpoint_every_epochs: int = 10
  evaluate_checkpoint: str = "latest"
  model: Model = Model()
  projector: Projector = Projector()
  equivariance: Equivariance = Equivariance()
  optimizer: Optimizer = Optimizer()
  knn: Knn = Knn()
  probe: Probe = Probe()
  measures: Measures = Measures()
  finetune: Finetune = Finetune()
  regression: Regression = Regression()


# Changing these does not change what is trained: a workdir accepts them.
FREE_FIELDS = (
  "mode",
  "data.dir",
  "data.labelled_split",
  "knn",
  "probe",
  "measures",
  "finetune",
  "regression",
  "log_every",
  "steps_per_dispatch",
  "checkpoint_every_epochs",
  "evaluate_checkpoint",
)


def parse(raw: Mapping[str, Any]) -> Config:
  """Builds and checks the typed config.

  Args:
    raw: nested mapping, such as `ConfigDict.to_dict()`.

  Returns:
    The typed config.

  Raises:
    UsageError: an unknown, missing, ill-typed or meaningless field, in one
      line that names it and what is allowed.
  """
  config = fields.build(Config, raw)
  config_checks.check(config)
  return config


def defaults() -> dict[str, Any]:
  """The default of every field that has one, nested; for `config.json`."""
  view = augment.View(size=1)
  return to_dict(
    Config(method="", data=Data(name=""), views=Views(view, view, view))
  )


def to_dict(config: Config) -> dict[str, Any]:
  """The config as nested plain data, for `config.json`."""
  return dataclasses.asdict(config)
