"""E-SimCLR on CIFAR-10, tuned for time to accuracy: 400 short epochs.

  python -m essl_jax.main --config=configs/cifar_fast.py --workdir=runs/fast
  python -m essl_jax.main --config=configs/cifar_fast.py:baseline
  python -m essl_jax.main --config=configs/cifar_fast.py:small
  python -m essl_jax.main --config=configs/cifar_fast.py:small,baseline
  python -m essl_jax.main --config=configs/cifar_fast.py:cifar100

Variants:
  baseline  SimCLR: no rotations are predicted, base learning rate 0.06.
  cifar100  the images of CIFAR-100; never run.
  equimod   EquiMod's term in place of predicting rotations; likewise augself,
            care, sie and stl (docs/equivariance.md); never run.
  small     float32, 5,000 images, 4 epochs, a quarter of the width; minutes on
            2 CPU cores.

The goal is 90% kNN accuracy within 10 minutes on one GPU of the H200's class.
Neither this accuracy nor this time has been measured. We measured which changes
speed up early learning: experiments/fast_study.py changes one thing at a time,
with 5,000 images, a quarter of the width and a budget of arithmetic. There this
recipe reaches a kNN accuracy of 41.2 +- 0.4%. cifar_simclr.py reaches 35.0 +-
0.9% (three seeds) and, with twice the budget, 37.9% (one seed;
experiments/README.md, Time to accuracy).

Differences from cifar_simclr.py, and their reasons:
  temperature 0.2 instead of 0.5: in that study, alone at least as good as twice
              the budget.
  rate        twice as high.
  elements    one random rotation per image instead of all four: 2.25 instead of
              3 passes over 32 x 32 pixels at full size.
  resolution  views at half and then three quarters of their sizes, and at full
              size for the last three tenths: 57% of the arithmetic.
  schedule    400 epochs instead of 800, one warm-up and one cosine.
  precision   bfloat16, with images in device memory; the kNN monitor runs every
              20 epochs, and checkpoints are written every 100.
Rate, elements and resolution each gain about as much as seeds differ.

Together, an epoch takes 1.28 such passes per image instead of 3 (43%). All 400
epochs take the arithmetic of 171 epochs of E-SimCLR at full size with all
rotations. How much time this saves on a GPU is unknown: small images use it
less fully, and augmentation costs the same as before.

Method, batch and augmentations are the same as in cifar_simclr.py. We chose
SimCLR over SimSiam because E-SimCLR is ahead after few epochs of few images.
"""

from cifar_simclr import COMMON, finish, shrink, start
import ml_collections

from essl_jax.config import variants

VARIANTS = COMMON


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  baseline = "baseline" in chosen
  config = start("simclr", chosen)
  config.epochs = 400
  config.precision = "bfloat16"
  config.checkpoint_every_epochs = 100
  config.data.on_device = True
  config.views.resolution = ((0.0, 0.5), (0.4, 0.75), (0.7, 1.0))
  config.temperature = 0.2
  config.optimizer.learning_rate = 0.06 if baseline else 0.12
  config.equivariance.weight = 0.0 if baseline else 0.4
  config.equivariance.all_elements = False
  config.knn.every_epochs = 20

  if "small" in chosen:
    shrink(config)
    config.precision = "float32"
    config.projector.widths = (512, 512)
    config.knn.every_epochs = 1
  return finish(config, chosen)
