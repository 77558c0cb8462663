"""E-SimSiam on CIFAR-10: ResNet-18, 800 epochs, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/cifar_simsiam.py --workdir=runs/essl
  python -m essl_jax.main --config=configs/cifar_simsiam.py:baseline
  python -m essl_jax.main --config=configs/cifar_simsiam.py:small
  python -m essl_jax.main --config=configs/cifar_simsiam.py:small,baseline

Variants:
  baseline  SimSiam: no rotations are predicted, base learning rate 0.03.
  small     5,000 images, a quarter of the width; minutes on 2 CPU cores.

Accuracy to expect (linear probe, top-1): about 94% for E-SimSiam and 91 to 92%
for SimSiam as remembered from the paper (arXiv 2111.00899, table 1; not
measured again). experiments/README.md has what was measured here.

On one accelerator add --config.precision=bfloat16 and, for the fastest input,
--config.data.on_device=True.
"""

import ml_collections

from essl_jax.config import base, variants

VARIANTS = {
  "baseline": "without equivariance",
  "small": "minutes on 2 CPU cores",
}


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  baseline = "baseline" in chosen
  config = base(method="simsiam")
  # The defaults are the paper's: 800 epochs at batch size 512, ResNet-18, SGD;
  # views 1 and 2 are crops of 20% or more with flips, jitter and grayscale.
  config.data.name = "cifar10"
  config.encoder.stem = "cifar"
  config.views.third.size = 16
  config.optimizer.learning_rate = 0.03 if baseline else 0.06
  config.equivariance.weight = 0.0 if baseline else 0.4
  config.equivariance.last_hidden_relu = False
  config.probe.resize_size = 36
  config.measures.groups = ("rotation",)

  if "small" in chosen:
    config.epochs = 4
    config.batch_size = 128
    config.data.train_split = "train[:5000]"
    config.encoder.width = 16
    config.projector.widths = (512, 512)
    config.predictor_hidden = 128
    config.equivariance.hidden_widths = (512, 512)
    config.optimizer.warmup_epochs = 1
    config.probe.protocol = "fast"
  return config
