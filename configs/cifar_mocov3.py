"""E-MoCo v3 on CIFAR-10: ResNet-18 or a ViT, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/cifar_mocov3.py --workdir=runs/moco
  python -m essl_jax.main --config=configs/cifar_mocov3.py:vit
  python -m essl_jax.main --config=configs/cifar_mocov3.py:vit,baseline
  python -m essl_jax.main --config=configs/cifar_mocov3.py:small
  python -m essl_jax.main --config=configs/cifar_mocov3.py:cifar100

Variants:
  baseline  MoCo v3: no rotations are predicted.
  cifar100  the images of CIFAR-100; never run.
  equimod   EquiMod's term in place of predicting rotations; likewise augself,
            care, sie and stl (docs/equivariance.md); never run.
  vit       a vision transformer with 12 blocks, 192 channels, 3 heads and
            patches of 4 pixels, with AdamW.
  small     5,000 images, a quarter of the width (for the ViT half the width and
            a third of the blocks); minutes on 2 CPU cores.

Views, heads, optimiser and length of the plain method on ResNet-18 follow
solo-learn, whose table reports 93.10% on CIFAR-10 and 68.83% on CIFAR-100 for
MoCo v3 (online linear classifier, 1000 epochs). The ViT is ours. Its fixed
positions, frozen patches, heads and decay come from MoCo v3 (arXiv 2104.02057),
and its rate is solo-learn's for ImageNet-100. We never trained it. No weight of
the rotations (lambda) is published for CIFAR: 0.4 is the value of E-SimCLR and
not tuned.

On one accelerator add --config.precision=bfloat16 and, for the fastest input,
--config.data.on_device=True.
"""

from cifar_byol import start
from cifar_simclr import COMMON, finish, shrink
import ml_collections

from essl_jax.config import variants

VARIANTS = COMMON | {"vit": "a vision transformer"}


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  is_vit = "vit" in chosen
  config = start("moco_v3", chosen, "vit" if is_vit else "resnet")
  config.equivariance.weight = 0.0 if "baseline" in chosen else 0.4
  if is_vit:
    config.encoder.update(
      image_size=32,
      patch=4,
      width=192,
      heads=3,
      positions="sincos",
      frozen_patch_projection=True,
    )
    config.projector.widths = (4096, 4096, 256)
    config.predictor_norm = "batch_not_affine"
    config.optimizer.update(name="adamw", learning_rate=3e-4, weight_decay=0.1)
  else:
    config.optimizer.update(learning_rate=0.3, weight_decay=1e-6)

  if "small" in chosen:
    shrink(config)
    config.projector.widths = (1024, 1024, 128) if is_vit else (1024, 128)
    config.predictor_hidden = 1024
    if is_vit:
      config.encoder.depth = 4
  return finish(config, chosen)
