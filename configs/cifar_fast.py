"""E-SimCLR on CIFAR-10, tuned for time to accuracy: 400 short epochs.

  python -m essl_jax.main --config=configs/cifar_fast.py --workdir=runs/fast
  python -m essl_jax.main --config=configs/cifar_fast.py:baseline
  python -m essl_jax.main --config=configs/cifar_fast.py:small
  python -m essl_jax.main --config=configs/cifar_fast.py:small,baseline
  python -m essl_jax.main --config=configs/cifar_fast.py:cifar100

Variants:
  baseline  SimCLR: no rotations are predicted, base learning rate 0.06.
  cifar100  the images of CIFAR-100; never run.
  equimod   EquiMod's term, and no rotations predicted; likewise augself, care,
            sie and stl (docs/equivariance.md); never run.
  small     float32, 5,000 images, 4 epochs, a quarter of the width; minutes on
            2 CPU cores.

The aim is 90% kNN accuracy within 10 minutes on one GPU of the H200's class.
Neither this accuracy nor that time has been measured. What has been is what
learns fast at first: experiments/fast_study.py changes one thing at a time with
5,000 images, a quarter of the width and a budget of arithmetic. There this
recipe is at a kNN accuracy of 41.2 +- 0.4% where cifar_simclr.py is at 35.0 +-
0.9% (three seeds) and, with twice the budget, at 37.9% (one;
experiments/README.md, Time to accuracy).

What differs from cifar_simclr.py, and what it is for:
  temperature 0.2 in place of 0.5: alone at least as good in that study as twice
              the budget.
  rate        twice as high.
  elements    one random rotation an image in place of all four: 2.25 in place
              of 3 passes over 32 x 32 pixels at full size.
  resolution  views at half, then three quarters of their sizes, and at full
              size for the last three tenths: 57% of the arithmetic.
  schedule    400 epochs in place of 800, one warm-up and one cosine.
  precision   bfloat16, images in device memory; the kNN monitor looks every 20
              epochs, checkpoints are every 100.
Of rate, elements and resolution each alone gains about what seeds differ by.

Together an epoch is 1.28 such passes an image in place of 3 (43%), and all 400
are the arithmetic of 171 epochs of E-SimCLR at full size with all rotations.
How much of that a GPU saves in time is not known: small images fill it less,
and augmentation costs the same as before.

Method, batch and augmentations are those of cifar_simclr.py. SimCLR rather than
SimSiam, since E-SimCLR is ahead after few epochs of few images.
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
