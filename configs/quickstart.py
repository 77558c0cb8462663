"""E-SimCLR on scikit-learn's hand-written digits: minutes on 2 CPU cores.

  python -m essl_jax.main --config=configs/quickstart.py
  python -m essl_jax.main --config=configs/quickstart.py:baseline

Trains a narrow ResNet-18 without labels on 1,438 images of 8x8 pixels. Prints
the kNN accuracy before and after, a linear probe and how often the rotation of
unseen images is recognised, and draws runs/quickstart/summary.png.

Measured on 2 CPU cores (commit e6914c4): kNN 91.6% before and 96.4% after,
linear probe 98.1%, rotation recognised 83.4% (chance 25%), 94 s of training.

Variants:
  baseline  SimCLR: no rotations are predicted.
"""

import ml_collections

from essl_jax.config import base, update_views, variants

VARIANTS = {"baseline": "without equivariance"}


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  config = base(method="simclr", data="digits")
  config.epochs = 14
  config.batch_size = 32
  config.log_every = 5
  config.checkpoint_every_epochs = 7
  config.encoder.update(stem="cifar", width=16)
  update_views(
    config,
    size=16,
    scale=(0.4, 1.0),
    flip=0.0,  # a mirrored digit is a different shape
    jitter=(0.4, 0.4, 0.0, 0.0),  # the images are gray
    grayscale=0.0,
    mean=(0.31, 0.31, 0.31),
    std=(0.38, 0.38, 0.38),
  )
  config.views.third.scale = (0.7, 1.0)
  config.temperature = 0.2
  config.projector.widths = (256, 256)
  config.optimizer.update(learning_rate=0.24, warmup_epochs=1)
  config.equivariance.weight = 0.0 if "baseline" in chosen else 0.4
  config.equivariance.hidden_widths = (256, 256)
  config.knn.update(every_epochs=2, k=20)
  config.probe.update(protocol="fast", repetitions=3)
  config.measures.groups = ("rotation",)
  return config
