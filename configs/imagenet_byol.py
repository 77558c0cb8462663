r"""E-BYOL on ImageNet: ResNet-50, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/imagenet_byol.py --workdir=runs/byol
  python -m essl_jax.main --config=configs/imagenet_byol.py:epochs=300
  python -m essl_jax.main --config=configs/imagenet_byol.py:baseline
  python -m essl_jax.main --config=configs/imagenet_byol.py:scale=large
  python -m essl_jax.main --config=configs/imagenet_byol.py:imagenet100 \
    --config.data.name=folder --config.data.dir=/data/imagenet

Data, views and variants are the same as in imagenet_simclr.py, plus:
  imagenet100  the 100 classes of imagenet100.txt from an image folder;
               ResNet-18, 400 epochs.

Never run, because data and hardware were not available. Optimiser and target
network follow BYOL (arXiv 2006.07733, appendix A; as remembered), whose linear
probe reaches 74.3% after 1000 epochs at batch size 4096, and 72.5% after 300.
imagenet100 follows solo-learn: 80.32% after 400 epochs (offline linear probe).
No weight of the rotations (lambda) is published for BYOL: 0.4 is the value of
E-SimCLR.
"""

from imagenet_simclr import IMAGENET100, shrink, start, use_imagenet100
import ml_collections

from essl_jax.config import variants

VARIANTS = IMAGENET100


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  config = start("byol", chosen)
  config.batch_size = 4096
  config.optimizer.update(
    name="lars",
    learning_rate=0.3 if config.epochs > 100 else 0.45,
    weight_decay=1e-6,
    trust_coefficient=0.001,
  )
  config.equivariance.weight = 0.0 if "baseline" in chosen else 0.4
  config.equivariance.hidden_widths = (2048, 2048, 128)

  if "imagenet100" in chosen:
    use_imagenet100(config)
    config.optimizer.learning_rate = 0.5
    config.predictor_hidden = 8192
  if "tiny" in chosen:
    shrink(config)
    config.projector.widths = (32, 16)
    config.predictor_hidden = 16
    config.optimizer.warmup_epochs = 1
  return config
