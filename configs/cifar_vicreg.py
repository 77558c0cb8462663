"""E-VICReg on CIFAR-10: ResNet-18, 1000 epochs, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/cifar_vicreg.py --workdir=runs/vicreg
  python -m essl_jax.main --config=configs/cifar_vicreg.py:baseline
  python -m essl_jax.main --config=configs/cifar_vicreg.py:small
  python -m essl_jax.main --config=configs/cifar_vicreg.py:small,baseline
  python -m essl_jax.main --config=configs/cifar_vicreg.py:cifar100

Variants:
  baseline  VICReg: no rotations are predicted.
  cifar100  the images of CIFAR-100; never run.
  equimod   EquiMod's term in place of predicting rotations; likewise augself,
            care, sie and stl (docs/equivariance.md); never run.
  small     5,000 images, a quarter of the width; minutes on 2 CPU cores.

Views, heads, optimiser and length of the plain method follow solo-learn, whose
table reports 92.07% on CIFAR-10 and 68.54% on CIFAR-100 for VICReg (online
linear classifier, 1000 epochs). We never trained it. No weight of the rotations
(lambda) is published for VICReg: 4 is twice the value of our E-Barlow Twins and
not tuned.

On one accelerator add --config.precision=bfloat16 and, for the fastest input,
--config.data.on_device=True.
"""

from cifar_byol import start
from cifar_simclr import COMMON, finish, shrink
import ml_collections

from essl_jax.config import variants

VARIANTS = COMMON


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  config = start("vicreg", chosen, smallest_crop=0.2)
  for view in (config.views.first, config.views.second):
    view.solarize = 0.1
  config.optimizer.update(learning_rate=0.3, weight_decay=1e-4)
  config.equivariance.weight = 0.0 if "baseline" in chosen else 4.0

  if "small" in chosen:
    shrink(config)
    config.projector.widths = (512, 512, 512)
  return finish(config, chosen)
