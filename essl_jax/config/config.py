"""The fields that every run has, whatever its parts.

`schema` adds the fields of the parts that a config chooses: the method's fields
beside those of `Config`, one group for every term and evaluation
(`config.equivariance`, `config.knn`), the encoder's fields in `config.encoder`
and the source's in `config.data`.
"""

import dataclasses
from typing import Annotated, Any, Literal

from essl_jax.config import bounds
from essl_jax.config.bounds import (
  MANY,
  Count,
  Fraction,
  NonNegative,
  Share,
  Side,
)


@dataclasses.dataclass(frozen=True)
class Views:
  """The augmented views by name; parts add the views that they request.

  Attributes:
    first: one view for SSL; evaluations read its size, mean and std.
    second: the other view for SSL.
    extra: one more transformation group (`transformations.find_augmentation`)
      to be invariant to. With probability 1/2, each SSL view, including small
      ones, is transformed by one of its elements other than the identity; other
      views are not.
    resolution: train at growing image sizes. Each stage is a pair: the part of
      the training at which it begins (rounded down to an epoch), and the
      fraction of the views' sizes from then on (rounded to a multiple of 4, at
      least 8). `((0.0, 0.5), (0.6, 1.0))` trains six tenths of the epochs at
      half size. Empty means full size throughout. Evaluations always use the
      full size.
  """

  first: Any
  second: Any
  extra: str | None = None
  resolution: tuple[tuple[Share, Fraction], ...] = ()


@dataclasses.dataclass(frozen=True)
class Data:
  """Where the images come from.

  Attributes:
    name: a TFDS data set, the path of an `.npz` file, a known source such as
      `folder` (files in `dir/<split>/<class>/`) or `digits` (scikit-learn), or
      `module:function` of your own.
    dir: the TFDS data directory, by default TFDS's own. For `folder`, the root
      of the image folder, which must be set. It may be in a bucket, such as
      `gs://BUCKET/FOLDER`.
    cache_gib: GiB that cached copies of files in buckets may take on this
      machine; 0 keeps none.
    on_device: keep the whole set in device memory, resized as for evaluation,
      instead of streaming it. `digits` and `.npz` files are always kept there.
    train_split: images to pre-train on.
    labelled_split: labelled images for the kNN bank and for training probes, if
      the pre-training images have no labels. By default `train_split`.
    test_split: images to evaluate on; `val` in most image folders.
    labelled_dir: folder of labelled images, `labelled_dir/<split>/<class>/*`,
      for evaluations when the training images have no labels. All evaluations
      then use its images, those of `labelled_split` (by default `train`) and
      `labelled_test_split`.
    labelled_test_split: images of `labelled_dir` to evaluate on, `test` by
      default.
    image_size: side of evaluation images in pixels, cut from the centre.
      Required if the images of a set differ in size; training then crops from
      the whole image.
    resize_size: length to which the shorter side is resized (bilinear) before
      that centre cut, such as 256 for an `image_size` of 224. By default
      `image_size`.
    white_level: level of white for images of more than eight bits in folders,
      such as 4095 or 1.0; black is 0. By default it is the level that files
      state, or else that of their type; a set for which it cannot be determined
      is refused.
    max_pixels: most pixels of an image file, and of all images decoded at a
      time. A file with more pixels, or of more than four bytes for each of
      `max_pixels`, counts as broken.
    max_bytes: most memory that the arrays of an `.npz` or HDF5 file may take.
  """

  name: str
  dir: str | None = None
  cache_gib: NonNegative = 32.0
  on_device: bool = False
  train_split: str = "train"
  labelled_split: str | None = None
  test_split: str = "test"
  labelled_dir: str | None = None
  labelled_test_split: str | None = None
  image_size: Side | None = None
  resize_size: Side | None = None
  white_level: (
    Annotated[float, bounds.Above(0), bounds.AtMost(2**32)] | None
  ) = None
  max_pixels: Count = 178_956_970  # PIL treats more as an attack
  max_bytes: Annotated[int, bounds.AtLeast(1), bounds.AtMost(2**50)] = 2**32

  @property
  def labelled(self) -> str:
    """The split whose labels kNN and probes learn from."""
    own = self.train_split if self.labelled_dir is None else Data.train_split
    return self.labelled_split or own

  @property
  def labelled_test(self) -> str:
    """The split that evaluations of features test on."""
    own = self.test_split if self.labelled_dir is None else Data.test_split
    return self.labelled_test_split or own


@dataclasses.dataclass(frozen=True)
class Encoder:
  """The network whose features are learned.

  Attributes:
    name: a known encoder, or `module:Class` of your own Flax module. Its fields
      are in the same group.
  """

  name: str = "resnet"


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """SGD, LARS or AdamW; linear warm-up, then a cosine.

  Attributes:
    name: `sgd`, `lars` or `adamw`. `lars` and `adamw` do not decay biases,
      norms and a ViT's positions and tokens, and `lars` does not adapt their
      rates.
    learning_rate: peak learning rate.
    bias_learning_rate: peak for biases and norms, if different.
    scale_with_batch: multiply the rates by batch size / 256.
    weight_decay: added to the gradient as in PyTorch; decoupled with `adamw`.
    momentum: momentum of the gradient; beta1 with `adamw`.
    beta2: decay of the mean squared gradient; `adamw` only.
    trust_coefficient: scale of the adapted rates; `lars` only, and required
      there.
    clip_rate: no adapted rate exceeds the learning rate (LARC); `lars` only.
    clip_gradients: largest norm of the gradient of all parameters together,
      without decay; a longer gradient is scaled down to it. Unset does not
      clip.
    clip_each_array: clip the gradient of each array by its own norm instead, as
      DINO does.
    warmup_epochs: epochs of linear warm-up to the peak.
    warmup_from: rate at which the warm-up begins; not scaled with the batch.
    end_factor: fraction of the peak at which the cosine ends.
    update_rate_every: how often the rate changes: every `step` or every
      `epoch`.
  """

  name: Literal["sgd", "lars", "adamw"] = "sgd"
  learning_rate: NonNegative = 0.03
  bias_learning_rate: NonNegative | None = None
  scale_with_batch: bool = True
  weight_decay: NonNegative = 5e-4
  momentum: Share = 0.9
  beta2: Share = 0.999
  trust_coefficient: bounds.Positive | None = None
  clip_rate: bool = False
  clip_gradients: bounds.Positive | None = None
  clip_each_array: bool = False
  warmup_epochs: bounds.Whole = 10
  warmup_from: NonNegative = 0.0
  end_factor: Share = 0.0
  update_rate_every: Literal["step", "epoch"] = "step"


@dataclasses.dataclass(frozen=True)
class Measures:
  """The images and groups that features are measured with.

  Attributes:
    groups: transformation groups (`transformations.find`) whose invariance and
      equivariance is measured at the end. The measures of collapse need none.
    images: the most training images and the most test images to measure on. The
      choice is fixed (`data.subsets.sample`); ranks cannot exceed this number.
  """

  groups: tuple[str, ...] = ()
  images: Annotated[int, bounds.AtLeast(10), bounds.AtMost(MANY)] = 2000


@dataclasses.dataclass(frozen=True)
class Config:
  """One run.

  Attributes:
    method: how the networks learn: a known method, or `module:Class` of your
      own. Its fields are at the same level. `none` has no SSL loss and learns
      only from its terms, such as by predicting rotations (RotNet).
    terms: equivariance terms to add to the method's loss: known ones or
      `module:Class`. Each has a group of fields; the group of `prediction` is
      `equivariance`.
    evaluations: what to measure: known evaluations or `module:Class`. Each has
      a group of fields.
    epochs: length of the pre-training; 0 skips it, for evaluations that start
      from random weights.
    batch_size: images per step, over all devices of all processes.
    micro_batches: number of parts into which each device splits its images to
      save memory. The loss is the same, but batch norm sees one part at a time.
    seed: seed of weights, data order and augmentations.
    mode: `train`; or `evaluate` or `finetune` an existing workdir (or, in a new
      workdir, the encoder of `init_from`).
    init_from: file of Flax weights to start from, made by `python -m
      essl_jax.convert`; it may be in a bucket. The run takes the encoder and
      those heads whose shapes match. It is read once; a resumed run uses its
      own checkpoints.
    precision: `float32`, or `bfloat16` for activations; parameters, statistics
      and losses stay float32.
    online_classifier: also train a linear classifier of the labels on view 1's
      features; no gradient reaches the encoder.
    log_every: steps between two lines of metrics.
    loggers: where the run can be watched: known loggers or `module:Class`. Some
      have a group of fields. `metrics-*.jsonl` is written in any case.
    steps_per_dispatch: number of steps that the devices run as one program, at
      most an epoch, when the images are in device memory. By default 256 on
      accelerators and 1 on CPUs, where more gains nothing. Data order and
      random draws are those of single steps. SIGTERM is noticed between
      programs, and up to two may be in flight.
    checkpoint_every_epochs: epochs between two checkpoints.
    evaluate_checkpoint: which checkpoint to evaluate at the end: `latest`, or
      `best` by the figure that an evaluation's `ranks` names.
    evaluate_network: which network evaluations measure (also during training)
      and exports contain: the trained one (`online`) or its moving average
      (`target`). By default the one that the method usually uses.
    evaluate_features: which features evaluations measure: `output` is what the
      encoder returns. A ViT also offers its class `token`, the `mean` of its
      patches, and the class tokens of its last blocks side by side, such as
      `last_4`.
    data: where the images come from.
    views: the augmented views by name.
    encoder: the network whose features are learned.
    optimizer: how parameters are updated.
    measures: the images and groups that features are measured with.
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
  epochs: Annotated[int, bounds.AtLeast(0), bounds.AtMost(10**6)] = 800
  batch_size: Annotated[int, bounds.AtLeast(2), bounds.AtMost(MANY)] = 512
  micro_batches: Count = 1
  seed: bounds.Seed = 0
  mode: Literal["train", "evaluate", "finetune"] = "train"
  init_from: str | None = None
  precision: Literal["float32", "bfloat16"] = "float32"
  online_classifier: bool = False
  log_every: Count = 20
  loggers: tuple[str, ...] = ("tensorboard",)
  steps_per_dispatch: Count | None = None
  checkpoint_every_epochs: Count = 10
  evaluate_checkpoint: Literal["latest", "best"] = "latest"
  evaluate_network: Literal["online", "target"] | None = None
  evaluate_features: str = "output"
  encoder: Encoder = Encoder()
  optimizer: Optimizer = Optimizer()
  measures: Measures = Measures()
