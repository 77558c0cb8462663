r"""E-MoCo v3 on ImageNet: ViT-S/16 or ResNet-50, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/imagenet_mocov3.py \
    --workdir=runs/moco
  python -m essl_jax.main --config=configs/imagenet_mocov3.py:baseline
  python -m essl_jax.main --config=configs/imagenet_mocov3.py:epochs=300
  python -m essl_jax.main --config=configs/imagenet_mocov3.py:resnet50
  python -m essl_jax.main --config=configs/imagenet_mocov3.py:imagenet100 \
    --config.data.name=folder --config.data.dir=/data/imagenet

Data and variants are the same as in imagenet_simclr.py, plus:
  resnet50     ResNet-50 with LARS.
  imagenet100  the 100 classes of imagenet100.txt from an image folder;
               400 epochs; together with resnet50, a ResNet-18 instead.

Never run, because data and hardware were not available. The recipe is E-SSL on
MoCo v3 as measured by others (arXiv 2603.06693; ViT-S/16, 100 epochs, batch
size 2048, linear probe, top-1): 68.44% without rotations and 70.60% with four
rotated views of 96 pixels. They do not state lambda; 1.0 is the default of
their program. imagenet100 with a ResNet-18 follows solo-learn: 80.36% after 400
epochs (offline linear probe); it reports no figure for its ViT-S.

MoCo v3 itself (arXiv 2104.02057) reports 73.2% for ViT-S after 300 epochs, and
72.8% for ResNet-50 (as remembered, like the settings of resnet50). Train its
ViT-S with

  python -m essl_jax.main \
    --config=configs/imagenet_mocov3.py:baseline,epochs=300 \
    --config.batch_size=4096 --config.optimizer.scale_with_batch=True \
    --config.optimizer.learning_rate=1.5e-4 --config.optimizer.warmup_epochs=40

Users of MoCo v3 report a ResNet-50 that collapsed after epoch 250: watch
`embedding_std`.
"""

from imagenet_simclr import IMAGENET100, shrink, start, use_imagenet100
import ml_collections

from essl_jax.config import variants

VARIANTS = IMAGENET100 | {"resnet50": "ResNet-50 with LARS"}


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  is_vit = "resnet50" not in chosen
  config = start("moco_v3", chosen, "vit" if is_vit else "resnet")
  if is_vit:
    config.encoder.update(
      heads=12, positions="sincos", frozen_patch_projection=True
    )
    config.batch_size = 2048
    config.projector.widths = (4096, 4096, 256)
    config.predictor_norm = "batch_not_affine"
    config.optimizer.update(
      name="adamw",
      learning_rate=3e-4,
      scale_with_batch=False,
      weight_decay=0.1,
    )
  else:
    config.batch_size = 4096
    if "imagenet100" not in chosen:
      for view in (config.views.first, config.views.second):
        view.scale = (0.2, 1.0)
    config.temperature = 1.0
    config.optimizer.update(
      name="lars",
      learning_rate=0.6 if config.epochs == 100 else 0.3,
      weight_decay=1e-6,
      trust_coefficient=0.001,
    )
  config.equivariance.weight = 0.0 if "baseline" in chosen else 1.0
  config.equivariance.hidden_widths = (2048, 2048, 128)

  if "imagenet100" in chosen:
    use_imagenet100(config)
    if not is_vit:
      config.temperature = 0.2
      config.optimizer.update(learning_rate=0.3, weight_decay=1e-6)
  if "tiny" in chosen:
    shrink(config)
    config.projector.widths = (32, 16)
    config.predictor_hidden = 16
    config.optimizer.warmup_epochs = 1
  return config
