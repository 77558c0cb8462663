r"""E-VICReg on ImageNet: ResNet-50, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/imagenet_vicreg.py --workdir=runs/vic
  python -m essl_jax.main --config=configs/imagenet_vicreg.py:epochs=300
  python -m essl_jax.main --config=configs/imagenet_vicreg.py:baseline
  python -m essl_jax.main --config=configs/imagenet_vicreg.py:scale=large
  python -m essl_jax.main --config=configs/imagenet_vicreg.py:imagenet100 \
    --config.data.name=folder --config.data.dir=/data/imagenet

Data and variants are the same as in imagenet_simclr.py, plus:
  imagenet100  the 100 classes of imagenet100.txt from an image folder;
               ResNet-18, 400 epochs.

Never run, because data and hardware were not available. Heads, views and
optimiser follow VICReg (arXiv 2105.04906, section 4.2; as remembered), whose
linear probe reaches 73.2% after 1000 epochs at batch size 2048. imagenet100
follows solo-learn: 79.40% after 400 epochs (offline linear probe). No weight of
the rotations (lambda) is published for VICReg: 8 is a guess, taken from Barlow
Twins, whose loss has a similar scale.
"""

from imagenet_simclr import IMAGENET100, shrink, start, use_imagenet100
import ml_collections

from essl_jax.config import variants

VARIANTS = IMAGENET100


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  config = start("vicreg", chosen)
  config.batch_size = 2048
  config.projector.widths = (8192, 8192, 8192)
  smallest = 0.2 if "imagenet100" in chosen else 0.08
  for view in (config.views.first, config.views.second):
    view.update(scale=(smallest, 1.0), blur=0.5, solarize=0.1)
  config.optimizer.update(
    name="lars",
    learning_rate=0.3 if config.epochs == 100 else 0.2,
    weight_decay=1e-6,
    trust_coefficient=0.001,
  )
  config.equivariance.weight = 0.0 if "baseline" in chosen else 8.0
  config.equivariance.hidden_widths = (2048, 2048, 256)

  if "imagenet100" in chosen:
    use_imagenet100(config)
    config.optimizer.update(learning_rate=0.3, weight_decay=1e-4)
    config.projector.widths = (2048, 2048, 2048)
  if "tiny" in chosen:
    shrink(config)
    config.projector.widths = (32, 32, 32)
    config.optimizer.warmup_epochs = 1
  return config
