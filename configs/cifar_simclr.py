"""E-SimCLR on CIFAR-10: ResNet-18, 800 epochs, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/cifar_simclr.py --workdir=runs/simclr
  python -m essl_jax.main --config=configs/cifar_simclr.py:baseline
  python -m essl_jax.main --config=configs/cifar_simclr.py:small
  python -m essl_jax.main --config=configs/cifar_simclr.py:small,baseline

Variants:
  baseline  SimCLR: no rotations are predicted, base learning rate 0.03.
  rotnet    no SSL loss: only rotations of 32-pixel crops are predicted, as by
            Gidaris et al. (arXiv 1803.07728), with this recipe's training.
  small     5,000 images, a quarter of the width; minutes on 2 CPU cores.

Accuracy to expect (linear probe, top-1): about 94% for E-SimCLR and 91 to 92%
for SimCLR as remembered from the paper (arXiv 2111.00899, table 1; not
re-measured here). What has been measured stands in experiments/README.md.

On one accelerator add --config.precision=bfloat16 and, for the fastest input,
--config.data.on_device=True.
"""

import ml_collections

from essl_jax.variants import exclusive, variants

VARIANTS = {
  "baseline": "without equivariance",
  "rotnet": "without an SSL loss",
  "small": "minutes on 2 CPU cores",
}


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  kind = exclusive(chosen, ("baseline", "rotnet"))
  baseline = kind == "baseline"

  config = ml_collections.ConfigDict()
  config.method = "simclr"
  config.mode = "train"
  config.init_from = ml_collections.config_dict.placeholder(str)
  config.epochs = 800
  config.batch_size = 512
  config.micro_batches = 1
  config.seed = 0
  config.precision = "float32"
  config.log_every = 20
  config.steps_per_dispatch = ml_collections.config_dict.placeholder(int)
  config.checkpoint_every_epochs = 10
  config.evaluate_checkpoint = "latest"

  config.data = dict(
    name="cifar10",
    dir=ml_collections.config_dict.placeholder(str),
    on_device=False,
    train_split="train",
    labelled_split=ml_collections.config_dict.placeholder(str),
    test_split="test",
    image_size=ml_collections.config_dict.placeholder(int),
    resize_size=ml_collections.config_dict.placeholder(int),
  )

  view = dict(
    size=32,
    scale=(0.2, 1.0),
    ratio=(3 / 4, 4 / 3),
    interpolation="bilinear",
    flip=0.5,
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_probability=0.8,
    grayscale=0.2,
    blur=0.0,
    blur_sigma=(0.1, 2.0),
    solarize=0.0,
    solarize_threshold=128 / 255,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
  )
  config.views = dict(
    first=dict(view),
    second=dict(view),
    third=view | dict(size=16),
    extra=ml_collections.config_dict.placeholder(str),
    resolution=(),
  )

  config.model = dict(
    depth=18,
    stem="cifar",
    width=64,
    zero_init_last_norm=False,
    rematerialize=False,
  )
  config.projector = dict(widths=(2048, 2048), last_norm="batch_not_affine")
  config.temperature = 0.5
  config.online_classifier = False
  config.equivariance = dict(
    group="rotation",
    weight=0.0 if baseline else 0.4,
    all_elements=True,
    heads="joint",
    relative=False,
    hidden_widths=(2048, 2048),
    last_hidden_relu=True,
  )

  config.optimizer = dict(
    name="sgd",
    learning_rate=0.03 if baseline else 0.06,  # times batch_size / 256
    weight_decay=5e-4,
    momentum=0.9,
    warmup_epochs=10,
    end_factor=0.0,
    update_rate_every="step",
  )

  config.knn = dict(every_epochs=1, k=(200,), temperature=0.1, bank_images=0)
  config.probe = dict(
    protocol="paper",
    repetitions=5,
    epochs=100,
    batch_size=256,
    optimizer="sgd",
    learning_rate=30.0,
    momentum=0.9,
    weight_decay=0.0,
    update_rate_every="step",
    initial_std=ml_collections.config_dict.placeholder(float),
    interpolation="bicubic",
    resize_size=36,
    checkpoint_every_epochs=10,
  )
  config.measures = dict(groups=("rotation",), images=2000)
  config.finetune = dict(
    labels=0.01,
    label_list=ml_collections.config_dict.placeholder(str),
    subset=0,
    epochs=20,
    batch_size=256,
    learning_rate=0.002,
    head_learning_rate=0.5,
    momentum=0.9,
    weight_decay=0.0,
  )

  if kind == "rotnet":
    config.method = "none"
    config.temperature = ml_collections.config_dict.placeholder(float)
    config.views.third.size = 32
    config.equivariance.weight = 1.0

  if "small" in chosen:
    config.epochs = 4
    config.batch_size = 128
    config.data.train_split = "train[:5000]"
    config.model.width = 16
    config.projector.widths = (512, 512)
    config.equivariance.hidden_widths = (512, 512)
    config.optimizer.warmup_epochs = 1
    config.knn.every_epochs = 1
    config.probe.protocol = "fast"
  return config
