"""E-SimSiam on CIFAR-10: ResNet-18, 800 epochs, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/cifar_simsiam.py --workdir=runs/essl
  python -m essl_jax.main --config=configs/cifar_simsiam.py:baseline
  python -m essl_jax.main --config=configs/cifar_simsiam.py:small
  python -m essl_jax.main --config=configs/cifar_simsiam.py:small,baseline
  python -m essl_jax.main --config=configs/cifar_simsiam.py:cifar100

Variants:
  baseline  SimSiam: no rotations are predicted, base learning rate 0.03.
  cifar100  the images of CIFAR-100; never run.
  equimod   EquiMod's term in place of predicting rotations; likewise augself,
            care, sie and stl (docs/equivariance.md); never run.
  small     5,000 images, a quarter of the width; minutes on 2 CPU cores.

Expected accuracy (linear probe, top-1): about 94% for E-SimSiam and 91 to 92%
for SimSiam, as remembered from the paper (arXiv 2111.00899, table 1; not
measured again). experiments/README.md has our measurements.

On one accelerator add --config.precision=bfloat16 and, for the fastest input,
--config.data.on_device=True.
"""

from cifar_simclr import COMMON, finish, shrink, start
import ml_collections

from essl_jax.config import variants

VARIANTS = COMMON


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  baseline = "baseline" in chosen
  config = start("simsiam", chosen)
  # The defaults are the paper's: 800 epochs at batch size 512, ResNet-18, SGD;
  # views 1 and 2 are crops of 20% or more with flips, jitter and grayscale.
  config.optimizer.learning_rate = 0.03 if baseline else 0.06
  config.equivariance.weight = 0.0 if baseline else 0.4
  config.equivariance.last_hidden_relu = False

  if "small" in chosen:
    shrink(config)
    config.projector.widths = (512, 512)
    config.predictor_hidden = 128
  return finish(config, chosen)
