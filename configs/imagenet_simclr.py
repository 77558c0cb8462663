r"""E-SimCLR on ImageNet: ResNet-50, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/imagenet_simclr.py \
    --workdir=runs/essl
  python -m essl_jax.main --config=configs/imagenet_simclr.py:epochs=800
  python -m essl_jax.main --config=configs/imagenet_simclr.py:baseline
  python -m essl_jax.main --config=configs/imagenet_simclr.py:scale=large
  python -m essl_jax.main --config=configs/imagenet_simclr.py \
    --config.data.name=folder --config.data.dir=/data/imagenet

The images come from TFDS (`imagenet2012`, prepared by hand as TFDS explains) or
from a folder `train/<class>/*`, `val/<class>/*`.

Variants combine with commas (`:baseline,epochs=300`):
  baseline     SimCLR: no rotations are predicted.
  epochs=100, epochs=200, epochs=300, epochs=800
               number of epochs; 100 by default.
  scale=small  view 3 shows 5% to 14% of an image (the default).
  scale=large  view 3 shows 8% to 100% of an image.
  tiny         a narrow ResNet-18 on small crops, to try out a folder of a few
               images on a CPU.

Accuracy of the paper (arXiv 2111.00899; linear probe, top-1, %; not measured
here):
  epochs                    100   200   300   800
  SimCLR                   67.6  69.7  70.4  71.9
  E-SimCLR, scale=small    68.2  70.2  71.3  72.5
  E-SimCLR, scale=large    68.2  70.2  71.1     -

Linear probe: SGD for 100 epochs at batch size 256, cosine per epoch from a
learning rate of 0.3, as in the paper's log of 800 epochs; its script has 1.0
(--config.probe.learning_rate=1.0).

The kNN bank holds 50,000 of the training images; to use all of them, evaluate
with --config.mode=evaluate --config.knn.bank_images=0. Fine-tune on 1% of the
labels with --config.mode=finetune; docs/evaluation.md explains 10% and lists.

Hours: the authors of SimCLR report about 1.5 h for 100 epochs of the plain
method at this batch size on 128 TPU v3 cores (arXiv 2002.05709, section 2.2; as
remembered). Four crops of 96 pixels add 37% to the pixels of two of 224.
"""

from collections.abc import Collection
import pathlib

import ml_collections

from essl_jax.config import base, exclusive, option, update_views, variants

VARIANTS = {
  "baseline": "without equivariance",
  "epochs=100": "short",
  "epochs=200": "longer",
  "epochs=300": "longer still",
  "epochs=800": "the longest of the paper",
  "scale=small": "view 3 shows 5% to 14%",
  "scale=large": "view 3 shows 8% to 100%",
  "tiny": "for trying out, on a CPU",
}
# For methods with published figures on ImageNet-100.
IMAGENET100 = VARIANTS | {"imagenet100": "100 classes of a folder, ResNet-18"}


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  config = start("simclr", chosen)
  config.batch_size = 4096
  config.projector.update(widths=(2048, 2048, 128), last_norm="batch")
  config.temperature = 0.2
  config.online_classifier = True
  config.optimizer.update(
    name="lars",
    learning_rate=4.8,
    scale_with_batch=False,
    weight_decay=1e-6,
    trust_coefficient=0.001,
    end_factor=0.001,
  )
  config.equivariance.weight = 0.0 if "baseline" in chosen else 0.4
  config.equivariance.hidden_widths = (2048, 2048, 128)
  config.probe.update(learning_rate=0.3, weight_decay=1e-6)

  if "tiny" in chosen:
    shrink(config)
    config.projector.widths = (32, 32, 16)
    config.optimizer.warmup_epochs = 1
  return config


def start(
  method: str, chosen: Collection[str], encoder: str = "resnet"
) -> ml_collections.ConfigDict:
  """Returns the common part of ImageNet recipes: data, views, evaluations."""
  large = option(chosen, "scale", "small") == "large"
  for other in VARIANTS:  # imagenet100 sets these itself
    if other == "tiny" or other.startswith("epochs="):
      exclusive(chosen, ("imagenet100", other))
  config = base(method=method, encoder=encoder)
  config.epochs = int(option(chosen, "epochs", "100"))
  config.precision = "bfloat16"
  config.log_every = 50
  config.checkpoint_every_epochs = 1
  config.data.update(
    name="imagenet2012",
    test_split="validation",
    image_size=224,
    resize_size=256,
  )
  if encoder == "resnet":
    config.encoder.update(depth=50, zero_init_last_norm=True)
  update_views(
    config,
    size=224,
    scale=(0.08, 1.0),
    interpolation="bicubic",
    jitter=(0.4, 0.4, 0.2, 0.1),
    blur=1.0,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
  )
  config.views.second.update(blur=0.1, solarize=0.2)
  config.views.third.update(
    size=96,
    scale=(0.08, 1.0) if large else (0.05, 0.14),
    interpolation="bilinear",
    blur=0.1,
  )
  config.equivariance.last_hidden_relu = False
  config.knn.update(every_epochs=10, k=(200, 20, 10), bank_images=50_000)
  config.probe.update(
    repetitions=1,
    update_rate_every="epoch",
    initial_std=0.01,
    interpolation="bilinear",
    checkpoint_every_epochs=1,
  )
  config.finetune.interpolation = "bilinear"
  config.measures.update(groups=("rotation",), images=5000)
  return config


def use_imagenet100(config: ml_collections.ConfigDict) -> None:
  """Switches a recipe to ImageNet-100 with the settings of solo-learn."""
  names = pathlib.Path(__file__).with_name("imagenet100.txt")
  config.epochs = 400
  config.batch_size = 256
  config.data.update(
    name="folder",
    classes=tuple(names.read_text(encoding="utf-8").split()),
    test_split="val",
  )
  if config.encoder.name == "resnet":
    config.encoder.update(depth=18, zero_init_last_norm=False)
    config.optimizer.update(
      trust_coefficient=0.02, clip_rate=True, warmup_from=3e-5
    )


def shrink(config: ml_collections.ConfigDict) -> None:
  """Makes a recipe `tiny`, except the settings of its method."""
  config.epochs = 2
  config.batch_size = 16
  config.precision = "float32"
  config.log_every = 1
  config.data.update(
    name="folder", test_split="val", image_size=32, resize_size=36
  )
  update_views(config, size=32)
  config.views.third.size = 16
  if config.encoder.name == "resnet":
    config.encoder.update(depth=18, width=8)
  else:
    config.encoder.update(image_size=32, patch=8, width=24, depth=2, heads=3)
  config.equivariance.hidden_widths = (32, 32, 16)
  config.knn.update(every_epochs=1, k=10, bank_images=0)
  config.probe.update(epochs=2, batch_size=16)
  config.finetune.update(labels=0.5, epochs=2, batch_size=16)
