"""E-SimCLR on STL-10: ResNet-18, 100 epochs, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/stl10_simclr.py --workdir=runs/stl10
  python -m essl_jax.main --config=configs/stl10_simclr.py:baseline
  python -m essl_jax.main --config=configs/stl10_simclr.py:small

Variants:
  baseline  SimCLR: no rotations are predicted, base learning rate 0.03.
  small     2,000 images, 48-pixel views, a quarter of the width: to try out.
  augself   AugSelf's term in place of predicting rotations; likewise care,
            equimod, sie and stl. 200 epochs at batch size 256 with a learning
            rate of 0.03, as AugSelf and STL were trained on STL-10.

Pre-trains on the 100,000 unlabelled images of 96 pixels (TFDS `stl10`, split
`unlabelled`); kNN and linear probe use the 5,000 labelled training images and
the 8,000 test images. The paper has no such run. The recipe is CIFAR-10's with
views of 96 pixels (48 for the third), ImageNet's stem and 100 epochs. Never
run, because the data was not available.
"""

import ml_collections

from essl_jax.config import (
  base,
  exclusive,
  term_variants,
  update_views,
  use_term,
  variants,
)

VARIANTS = {
  "baseline": "without equivariance",
  "small": "for trying out",
  **term_variants(),
}


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  return make("simclr", variant)


def make(method: str, variant: str | None) -> ml_collections.ConfigDict:
  """Returns the recipe with another method, for `stl10_simsiam.py` too."""
  chosen = variants(variant, VARIANTS)
  baseline = "baseline" in chosen
  has_term = bool(exclusive(chosen, term_variants()))
  config = base(method=method)
  config.epochs = 200 if has_term else 100
  if has_term:
    config.batch_size = 256
  config.data.update(
    name="stl10", train_split="unlabelled", labelled_split="train"
  )
  update_views(
    config,
    size=96,
    mean=(0.485, 0.456, 0.406),  # ImageNet's
    std=(0.229, 0.224, 0.225),
  )
  config.views.third.size = 48
  config.optimizer.learning_rate = 0.03 if baseline or has_term else 0.06
  config.equivariance.weight = 0.0 if baseline else 0.4
  config.probe.resize_size = 108  # 96 * 36 / 32, as for CIFAR-10
  config.measures.groups = ("rotation",)

  if "small" in chosen:
    config.epochs = 10
    config.batch_size = 128
    config.data.train_split = "unlabelled[:2000]"
    update_views(config, size=48)
    config.views.third.size = 24
    config.encoder.width = 16
    config.projector.widths = (512, 512)
    config.equivariance.hidden_widths = (512, 512)
    config.optimizer.warmup_epochs = 1
    config.probe.update(resize_size=54, protocol="fast")
  use_term(config, chosen)
  if "care" in chosen:
    config.care.update(weight=0.01, chunks=8)  # the paper's for a ResNet-50
  if {"sie", "small"} <= chosen:
    config.sie.equivariant_features = 64  # half of 128
  return config
