"""What a run can be told of its evaluation; see `config`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Knn:
  """The kNN monitor.

  Attributes:
    every_epochs: how often it runs, the untrained encoder first; 0 is only at
      the end.
    k: neighbours, or several numbers of them: one pass gives all figures. The
      first is the `knn_top1` that ranks checkpoints, a further one, say 20,
      is `knn_top1_k20`.
    temperature: of the neighbours' votes.
    bank_images: how many training images are the bank, also at the end; 0 is
      all. The choice is fixed: see `data.subsets.sample`.
  """

  every_epochs: int = 1
  k: int | tuple[int, ...] = 200
  temperature: float = 0.1
  bank_images: int = 0

  @property
  def ks(self) -> tuple[int, ...]:
    """All numbers of neighbours, the monitor's first."""
    return (self.k,) if isinstance(self.k, int) else self.k


@dataclasses.dataclass(frozen=True)
class Probe:
  """The linear probe.

  Attributes:
    protocol: `paper` (freshly augmented images at every step), `fast` (cached
      features) or `none`.
    repetitions: probes that differ in weights, order and augmentation.
    epochs: of each.
    batch_size: images per step, over all devices.
    learning_rate: at the start of the cosine; not scaled with the batch.
    optimizer: `sgd`, or `lars` with a trust coefficient of 0.001, which
      adapts the bias as well.
    momentum: of the gradients' running sum.
    weight_decay: added to the gradient.
    update_rate_every: `step` or `epoch`.
    initial_std: of normal initial weights, with biases of 0; absent, both are
      uniform within 1 / sqrt(features), PyTorch's default.
    interpolation: of the training crops: `bilinear` or `bicubic`.
    resize_size: shorter side (bicubic) that test images of one size are
      resized to before their centre is cut out; absent, they are left as kNN
      sees them. Where images differ in size, `data.resize_size` is read.
    checkpoint_every_epochs: how often an unfinished probe is saved, from which
      the same command goes on.
  """

  protocol: str = "paper"
  repetitions: int = 5
  epochs: int = 100
  batch_size: int = 256
  learning_rate: float = 30.0
  optimizer: str = "sgd"
  momentum: float = 0.9
  weight_decay: float = 0.0
  update_rate_every: str = "step"
  initial_std: float | None = None
  interpolation: str = "bicubic"
  resize_size: int | None = None
  checkpoint_every_epochs: int = 10


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
  images: int = 2000


@dataclasses.dataclass(frozen=True)
class Finetune:
  """Fine-tuning of all weights on few labels: `mode=finetune`.

  The defaults are what Barlow Twins' program gives for 1% of ImageNet; see
  docs/evaluation.md for 10%.

  Attributes:
    labels: what part of the training images keep their labels, the same part
      of every class; see `data.subsets.choose`.
    label_list: a file that names the images instead, one a line, such as
      SimCLR's `1percent.txt`.
    subset: which of the disjoint subsets of that size, from 0.
    epochs: passes over the labelled images.
    batch_size: images per step, over all devices.
    learning_rate: of the encoder, at the start of a cosine per epoch.
    head_learning_rate: of the new linear head.
    momentum: of SGD.
    weight_decay: added to the gradient of all weights.
  """

  labels: float = 0.01
  label_list: str | None = None
  subset: int = 0
  epochs: int = 20
  batch_size: int = 256
  learning_rate: float = 0.002
  head_learning_rate: float = 0.5
  momentum: float = 0.9
  weight_decay: float = 0.0


@dataclasses.dataclass(frozen=True)
class Regression:
  """Fine-tuning for the density of states, the measure of `photonics`.

  All weights are trained with Adam on cells of the split `train`, each under
  random elements of the first view's groups. The figures are of the epoch that
  is best on the split `validation`.

  Attributes:
    labelled: how many cells to train on; one number or several, each of which
      gives figures.
    repetitions: trainings that differ in cells, order, augmentation and the
      head's weights.
    epochs: of each.
    batch_size: cells per step, over all devices.
    learning_rate: constant.
    weight_decay: added to the gradient as in PyTorch's Adam.
  """

  labelled: tuple[int, ...] = (3000,)
  repetitions: int = 3
  epochs: int = 100
  batch_size: int = 64
  learning_rate: float = 1e-4
  weight_decay: float = 1e-5
