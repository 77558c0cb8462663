"""E-SimCLR on CIFAR-10: ResNet-18, 800 epochs, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/cifar_simclr.py --workdir=runs/simclr
  python -m essl_jax.main --config=configs/cifar_simclr.py:baseline
  python -m essl_jax.main --config=configs/cifar_simclr.py:small
  python -m essl_jax.main --config=configs/cifar_simclr.py:small,baseline

Variants:
  baseline  SimCLR: no rotations are predicted, base learning rate 0.03.
  rotnet    no SSL loss: predicts the rotations of 32-pixel crops alone, as
            Gidaris et al. (arXiv 1803.07728), with this recipe's training.
  small     5,000 images, a quarter of the width; minutes on 2 CPU cores.

Accuracy to expect (linear probe, top-1): about 94% for E-SimCLR and 91 to 92%
for SimCLR as remembered from the paper (arXiv 2111.00899, table 1; not
measured again). experiments/README.md has what was measured here.

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
  # The defaults are the paper's: 800 epochs at batch size 512, ResNet-18, SGD,
  # temperature 0.5; views 1 and 2 are crops of 20% or more with flips, jitter
  # and grayscale.
  config.data.name = "cifar10"
  config.encoder.stem = "cifar"
  config.views.third.size = 32 if kind == "rotnet" else 16
  config.optimizer.learning_rate = 0.03 if kind == "baseline" else 0.06
  config.equivariance.weight = {"": 0.4, "rotnet": 1.0, "baseline": 0.0}[kind]
  config.probe.resize_size = 36
  config.measures.groups = ("rotation",)

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
