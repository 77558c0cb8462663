r"""E-DINO on ImageNet: ViT-S/16, many crops, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/imagenet_dino.py --workdir=runs/dino
  python -m essl_jax.main --config=configs/imagenet_dino.py:baseline
  python -m essl_jax.main --config=configs/imagenet_dino.py:epochs=300
  python -m essl_jax.main --config=configs/imagenet_dino.py:imagenet100 \
    --config.data.name=folder --config.data.dir=/data/imagenet

Data and variants are the same as in imagenet_simclr.py, plus:
  imagenet100  the 100 classes of imagenet100.txt from an image folder;
               ResNet-18 without small crops, 400 epochs.

Never run, because data and hardware were not available. The settings are DINO's
for ViT-S/16 (arXiv 2104.14294 and its program; as remembered): two views of 224
pixels and eight of 96, AdamW, 65,536 prototypes, and batch size and teacher
temperature of its run of 800 epochs. After 100 epochs, at batch size 512 and a
temperature of 0.04, its program reports kNN 69.3% and a linear probe of 74.0%.
Two things differ: the projector has batch norms and ReLU, as in solo-learn,
while DINO's has only GELU; and the weight decay stays at 0.04 instead of rising
to 0.4. The weight of the rotations (lambda) is a guess, because none is
published for DINO. imagenet100 follows solo-learn: 74.92% after 400 epochs
(offline linear probe).

Evaluations use the teacher, the target network. DINO's linear probe of a ViT-S
reads the last four blocks: evaluate with --config.mode=evaluate
--config.evaluate_features=last_4.
"""

from imagenet_simclr import IMAGENET100, shrink, start, use_imagenet100
import ml_collections

from essl_jax.config import variants

VARIANTS = IMAGENET100


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  is_vit = "imagenet100" not in chosen
  config = start("dino", chosen, "vit" if is_vit else "resnet")
  config.batch_size = 1024
  config.equivariance.weight = 0.0 if "baseline" in chosen else 0.4
  config.equivariance.hidden_widths = (2048, 2048, 128)
  if is_vit:
    for view in (config.views.first, config.views.second):
      view.scale = (0.4, 1.0)
    config.small_views = 8
    config.views.small.update(size=96, scale=(0.05, 0.4), blur=0.5)
    config.prototypes = 65_536
    config.encoder.stochastic_depth = 0.1
    config.optimizer.update(
      name="adamw",
      learning_rate=5e-4,  # times batch_size / 256
      weight_decay=0.04,
      end_factor=5e-4,  # 1e-6 at batch size 1024
      clip_gradients=3.0,
      clip_each_array=True,
    )
  else:
    use_imagenet100(config)
    config.target_decay = 0.9995
    config.optimizer.update(name="lars", learning_rate=0.3, weight_decay=1e-6)

  if "tiny" in chosen:
    shrink(config)
    config.projector.widths = (32, 32, 16)
    config.prototypes = 64
    config.small_views = 2
    config.views.small.size = 16
    config.optimizer.warmup_epochs = 1
    config.teacher_warmup_epochs = 0
  return config
