"""E-BYOL on CIFAR-10: ResNet-18, 1000 epochs, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/cifar_byol.py --workdir=runs/byol
  python -m essl_jax.main --config=configs/cifar_byol.py:baseline
  python -m essl_jax.main --config=configs/cifar_byol.py:small
  python -m essl_jax.main --config=configs/cifar_byol.py:small,baseline
  python -m essl_jax.main --config=configs/cifar_byol.py:cifar100

Variants:
  baseline  BYOL: no rotations are predicted.
  cifar100  the images of CIFAR-100; never run.
  equimod   EquiMod's term in place of predicting rotations; likewise augself,
            care, sie and stl (docs/equivariance.md); never run.
  small     5,000 images, a quarter of the width; minutes on 2 CPU cores.

Views, heads, optimiser and length of the plain method follow solo-learn, whose
table reports 92.58% on CIFAR-10 and 70.46% on CIFAR-100 for BYOL (online linear
classifier, 1000 epochs). We trained only `small` (experiments/README.md). No
weight of the rotations (lambda) is published for BYOL: 0.4 is the value of
E-SimCLR and not tuned.

On one accelerator add --config.precision=bfloat16 and, for the fastest input,
--config.data.on_device=True.
"""

from collections.abc import Collection

import cifar_simclr
import ml_collections

from essl_jax.config import update_views, variants

VARIANTS = cifar_simclr.COMMON


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  config = start("byol", chosen)
  config.optimizer.update(learning_rate=1.0, weight_decay=1e-5)
  config.equivariance.weight = 0.0 if "baseline" in chosen else 0.4

  if "small" in chosen:
    cifar_simclr.shrink(config)
    config.projector.widths = (1024, 128)
    config.predictor_hidden = 1024
  return cifar_simclr.finish(config, chosen)


def start(
  method: str,
  chosen: Collection[str],
  encoder: str = "resnet",
  smallest_crop: float = 0.08,
) -> ml_collections.ConfigDict:
  """Returns the common part of solo-learn recipes: views, LARC, length."""
  config = cifar_simclr.start(method, chosen, encoder)
  config.epochs = 1000
  config.batch_size = 256
  update_views(config, scale=(smallest_crop, 1.0), jitter=(0.4, 0.4, 0.2, 0.1))
  config.views.second.solarize = 0.2
  if encoder == "resnet":
    config.optimizer.update(
      name="lars", trust_coefficient=0.02, clip_rate=True, warmup_from=3e-5
    )
  return config
