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

from essl_jax.config import base, exclusive, variants

VARIANTS = {
  "baseline": "without equivariance",
  "rotnet": "without an SSL loss",
  "small": "minutes on 2 CPU cores",
}


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  kind = exclusive(chosen, ("baseline", "rotnet"))
  config = base(method="none" if kind == "rotnet" else "simclr")
  config.epochs = 800
  config.batch_size = 512
  config.data.name = "cifar10"
  config.encoder.update(depth=18, stem="cifar")
  # Views 1 and 2: crops of 20% or more, flips, jitter, grayscale (defaults).
  config.views.third.size = 16
  config.optimizer.learning_rate = 0.03 if kind == "baseline" else 0.06
  config.optimizer.weight_decay = 5e-4
  config.equivariance.weight = 0.4
  config.equivariance.hidden_widths = (2048, 2048)
  config.probe.resize_size = 36
  config.measures.groups = ("rotation",)
  if kind == "rotnet":
    config.views.third.size = 32
    config.equivariance.weight = 1.0
  else:
    config.temperature = 0.5
    config.projector.widths = (2048, 2048)
  if kind == "baseline":
    config.equivariance.weight = 0.0

  if "small" in chosen:
    config.epochs = 4
    config.batch_size = 128
    config.data.train_split = "train[:5000]"
    config.encoder.width = 16
    if kind != "rotnet":
      config.projector.widths = (512, 512)
    config.equivariance.hidden_widths = (512, 512)
    config.optimizer.warmup_epochs = 1
    config.probe.protocol = "fast"
  return config
