"""E-DINO on CIFAR-10: ResNet-18, 1000 epochs, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/cifar_dino.py --workdir=runs/dino
  python -m essl_jax.main --config=configs/cifar_dino.py:baseline
  python -m essl_jax.main --config=configs/cifar_dino.py:small
  python -m essl_jax.main --config=configs/cifar_dino.py:small,baseline
  python -m essl_jax.main --config=configs/cifar_dino.py:cifar100
  python -m essl_jax.main --config=configs/cifar_dino.py \
    --config.small_views=6 --config.views.small.size=16 \
    --config.views.small.scale="(0.05, 0.4)"

Variants:
  baseline  DINO: no rotations are predicted.
  cifar100  the images of CIFAR-100; never run.
  equimod   EquiMod's term in place of predicting rotations; likewise augself,
            care, sie and stl (docs/equivariance.md); never run.
  small     5,000 images, a quarter of the width; minutes on 2 CPU cores.

Views, heads, optimiser and length of the plain method follow solo-learn, whose
table reports 89.52% on CIFAR-10 and 66.76% on CIFAR-100 for DINO (online linear
classifier, 1000 epochs; its users report 87%). It has no small views; the last
command adds six. We never trained it. No weight of the rotations (lambda) is
published for DINO: 0.4 is the value of E-SimCLR and not tuned.

Evaluations use the teacher, the target network.

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
  config = start("dino", chosen)
  config.target_decay = 0.9995
  config.optimizer.update(learning_rate=0.3, weight_decay=1e-6)
  config.equivariance.weight = 0.0 if "baseline" in chosen else 0.4

  if "small" in chosen:
    shrink(config)
    config.projector.widths = (512, 512, 128)
    config.prototypes = 1024
    config.target_decay = 0.99
    config.teacher_warmup_epochs = 0
  return finish(config, chosen)
