"""E-SimCLR on CIFAR-10: ResNet-18, 800 epochs, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/cifar_simclr.py --workdir=runs/simclr
  python -m essl_jax.main --config=configs/cifar_simclr.py:baseline
  python -m essl_jax.main --config=configs/cifar_simclr.py:small
  python -m essl_jax.main --config=configs/cifar_simclr.py:small,baseline
  python -m essl_jax.main --config=configs/cifar_simclr.py:cifar100

Variants:
  baseline  SimCLR: no rotations are predicted, base learning rate 0.03.
  cifar100  the images of CIFAR-100; never run.
  equimod   EquiMod's term in place of predicting rotations; likewise augself,
            care, sie and stl (docs/equivariance.md); never run.
  rotnet    no SSL loss: only predicts the rotations of 32-pixel crops, as in
            Gidaris et al. (arXiv 1803.07728), with this recipe's training.
  small     5,000 images, a quarter of the width; minutes on 2 CPU cores.

Expected accuracy (linear probe, top-1): about 94% for E-SimCLR and 91 to 92%
for SimCLR, as remembered from the paper (arXiv 2111.00899, table 1; not
measured again). experiments/README.md has our measurements.

On one accelerator add --config.precision=bfloat16 and, for the fastest input,
--config.data.on_device=True.
"""

from collections.abc import Collection

import ml_collections

from essl_jax.config import (
  base,
  exclusive,
  term_variants,
  update_views,
  use_term,
  variants,
)

COMMON = {
  "baseline": "without equivariance",
  "cifar100": "images of CIFAR-100",
  "small": "minutes on 2 CPU cores",
  **term_variants(),
}
VARIANTS = COMMON | {"rotnet": "without an SSL loss"}


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  exclusive(chosen, ("rotnet", *term_variants()))
  kind = exclusive(chosen, ("baseline", "rotnet"))
  config = start("none" if kind == "rotnet" else "simclr", chosen)
  # The defaults are the paper's: 800 epochs at batch size 512, ResNet-18, SGD,
  # temperature 0.5; views 1 and 2 are crops of 20% or more with flips, jitter
  # and grayscale.
  config.views.third.size = 32 if kind == "rotnet" else 16
  config.optimizer.learning_rate = 0.03 if kind == "baseline" else 0.06
  config.equivariance.weight = {"": 0.4, "rotnet": 1.0, "baseline": 0.0}[kind]

  if "small" in chosen:
    shrink(config)
    if kind != "rotnet":
      config.projector.widths = (512, 512)
  return finish(config, chosen)


def start(
  method: str, chosen: Collection[str], encoder: str = "resnet"
) -> ml_collections.ConfigDict:
  """Returns the common part of CIFAR recipes: data, third view, evaluations."""
  config = base(method=method, encoder=encoder)
  config.data.name = "cifar10"
  if encoder == "resnet":
    config.encoder.stem = "cifar"
  config.views.third.size = 16
  config.probe.resize_size = 36
  config.measures.groups = ("rotation",)
  if "cifar100" in chosen:
    config.data.name = "cifar100"
    update_views(
      config, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)
    )
  return config


def shrink(config: ml_collections.ConfigDict) -> None:
  """Makes a recipe `small`, except the settings of its method."""
  config.epochs = 4
  config.batch_size = 128
  config.data.train_split = "train[:5000]"
  config.encoder.width = 16 if config.encoder.name == "resnet" else 96
  config.equivariance.hidden_widths = (512, 512)
  config.optimizer.warmup_epochs = 1
  config.probe.protocol = "fast"


def finish(
  config: ml_collections.ConfigDict, chosen: frozenset[str]
) -> ml_collections.ConfigDict:
  """Replaces the prediction of rotations by a variant's term, if any."""
  use_term(config, chosen)
  if {"care", "cifar100"} <= chosen:
    config.care.update(weight=0.001, chunks=4)  # as in the paper
  if {"sie", "small"} <= chosen:
    config.sie.equivariant_features = 64  # half of 128, or of a ViT's 96
  return config
