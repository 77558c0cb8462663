"""What every run can be told, whatever its parts.

The fields of the parts that a config chooses are added by `schema`: the
method's stand beside those of `Config`, every term and evaluation has a group
of its own (`config.equivariance`, `config.knn`), the encoder's are in
`config.encoder` and the source's in `config.data`.
"""

import dataclasses
from typing import Annotated, Any, Literal

from essl_jax.config import bounds
from essl_jax.config.bounds import Count, Fraction, NonNegative, Share, Whole


@dataclasses.dataclass(frozen=True)
class Views:
  """The augmented views by name; every part that asks for one adds its own.

  Attributes:
    first: for SSL; evaluations read its size, mean and std.
    second: for SSL.
    extra: one more invariance: a group of `transformations.find_augmentation`.
      Both views for SSL undergo, with probability 1/2 each, one of its elements
      other than the identity; other views do not.
    resolution: stages of growing sizes, pairs of a part of the training, at
      which a stage begins (rounded down to an epoch), and the fraction of all
      views' sizes from there on (rounded to a multiple of 4, 8 or more):
      `((0.0, 0.5), (0.6, 1.0))` trains six tenths of the epochs at half size.
      Empty, sizes are full all the time. Evaluations always see full size.
  """

  first: Any
  second: Any
  extra: str | None = None
  resolution: tuple[tuple[Share, Fraction], ...] = ()


@dataclasses.dataclass(frozen=True)
class Data:
  """Where the images come from.

  Attributes:
    name: a TFDS data set, the path of an `.npz`, a known source such as
      `folder` (files in `dir/<split>/<class>/`) or `digits` (scikit-learn), or
      `module:function` of your own.
    dir: the TFDS data directory, TFDS's own default when absent; the root of
      an image folder, which has no default.
    on_device: reads the set once, resized for evaluation, and keeps it in
      device memory instead of streaming it; `digits` and `.npz` always live
      there.
    train_split: pre-training images.
    labelled_split: kNN bank and training of probes, where the pre-training
      images have no labels; absent, they are `train_split`.
    test_split: evaluation images; `val` in most image folders.
    image_size: side of evaluation images in pixels, cut from the centre;
      needed where a set's images differ in size. Training crops such images
      from their full size.
    resize_size: shorter side (bilinear) before that cut, such as 256 for an
      `image_size` of 224; absent, it is `image_size`.
  """

  name: str
  dir: str | None = None
  on_device: bool = False
  train_split: str = "train"
  labelled_split: str | None = None
  test_split: str = "test"
  image_size: Count | None = None
  resize_size: Count | None = None

  @property
  def labelled(self) -> str:
    """The split whose labels kNN and probes learn from."""
    return self.labelled_split or self.train_split


@dataclasses.dataclass(frozen=True)
class Encoder:
  """The network whose features are learned.

  Attributes:
    name: a known encoder, or `module:Class` of your own Flax module. Its
      fields stand beside this one.
  """

  name: str = "resnet"


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """SGD, LARS or AdamW; linear warm-up, then a cosine.

  Attributes:
    name: `sgd`; `lars`, which spares biases and norms decay and adaptation; or
      `adamw`, which spares them decay.
    learning_rate: the peak.
    bias_learning_rate: the peak for biases and norms, where it is another.
    scale_with_batch: rates are per 256 images, multiplied by batch / 256.
    weight_decay: added to the gradient as in PyTorch; of `adamw` decoupled.
    momentum: of the gradients' running sum; `adamw`'s beta1.
    beta2: of `adamw` alone: of the squared gradients' running mean.
    trust_coefficient: of `lars` alone.
    warmup_epochs: from 0 to the peak.
    end_factor: what part of the peak the cosine ends at.
    update_rate_every: `step` or `epoch`.
  """

  name: Literal["sgd", "lars", "adamw"] = "sgd"
  learning_rate: NonNegative = 0.03
  bias_learning_rate: NonNegative | None = None
  scale_with_batch: bool = True
  weight_decay: NonNegative = 5e-4
  momentum: Share = 0.9
  beta2: Share = 0.999
  trust_coefficient: bounds.Positive | None = None
  warmup_epochs: Whole = 10
  end_factor: Share = 0.0
  update_rate_every: Literal["step", "epoch"] = "step"


@dataclasses.dataclass(frozen=True)
class Measures:
  """How collapsed, invariant and equivariant the features are.

  Attributes:
    groups: names for `transformations.find` whose symmetry is measured at the
      end; the measures of collapse need none.
    images: how many training and how many test images at most, a fixed choice:
      see `data.subsets.sample`. Ranks are bounded by it.
  """

  groups: tuple[str, ...] = ()
  images: Annotated[int, bounds.AtLeast(10)] = 2000


@dataclasses.dataclass(frozen=True)
class Config:
  """One run.

  Attributes:
    method: how the networks learn: a known method, or `module:Class` of your
      own. Its fields stand beside this one. `none` has no SSL loss and learns
      by its terms alone, such as by predicting rotations (RotNet).
    terms: equivariance terms that are added to the method's loss, known ones or
      `module:Class`; each has a group of fields, `prediction`'s is
      `equivariance`.
    evaluations: what is measured, known ones or `module:Class`; each has a
      group of fields of its name.
    epochs: of pre-training; 0 leaves it out, for evaluations that begin with
      random weights.
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
    data: where the images come from.
    views: the augmented views by name.
    encoder: the network whose features are learned.
    optimizer: how parameters move.
    measures: the sample of images and the groups that measures are of.
  """

  method: str
  data: Data
  views: Any
  terms: tuple[str, ...] = ("prediction",)
  evaluations: tuple[str, ...] = (
    "knn",
    "transformation",
    "collapse",
    "symmetry",
    "probe",
    "finetune",
  )
  epochs: Whole = 800
  batch_size: Annotated[int, bounds.AtLeast(2)] = 512
  micro_batches: Count = 1
  seed: Annotated[int, bounds.AtLeast(0), bounds.Below(2**32)] = 0
  mode: Literal["train", "evaluate", "finetune"] = "train"
  init_from: str | None = None
  precision: Literal["float32", "bfloat16"] = "float32"
  online_classifier: bool = False
  log_every: Count = 20
  steps_per_dispatch: Count | None = None
  checkpoint_every_epochs: Count = 10
  evaluate_checkpoint: Literal["latest", "best"] = "latest"
  encoder: Encoder = Encoder()
  optimizer: Optimizer = Optimizer()
  measures: Measures = Measures()
