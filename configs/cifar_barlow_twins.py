"""E-Barlow Twins on CIFAR-10: ResNet-18, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/cifar_barlow_twins.py
  python -m essl_jax.main --config=configs/cifar_barlow_twins.py:baseline
  python -m essl_jax.main --config=configs/cifar_barlow_twins.py:small
  python -m essl_jax.main --config=configs/cifar_barlow_twins.py:small,baseline
  python -m essl_jax.main --config=configs/cifar_barlow_twins.py:cifar100

Variants:
  baseline  Barlow Twins: no rotations are predicted.
  cifar100  the images of CIFAR-100; never run.
  equimod   EquiMod's term in place of predicting rotations; likewise augself,
            care, sie and stl (docs/equivariance.md); never run.
  small     5,000 images, a quarter of the width; minutes on 2 CPU cores.

The paper has Barlow Twins on ImageNet only. This recipe takes views, encoder
and length from its CIFAR-10 recipes, loss and LARS from its ImageNet recipe,
and scales projector and lambda to a quarter. Plain Barlow Twins reaches 92.1%
(online linear classifier, 1000 epochs) in solo-learn's table;
experiments/README.md has our measurements.

On one accelerator add --config.precision=bfloat16 and, for the fastest input,
--config.data.on_device=True.
"""

from cifar_simclr import COMMON, finish, shrink, start
import ml_collections

from essl_jax.config import variants

VARIANTS = COMMON


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  config = start("barlow_twins", chosen)
  config.projector.widths = (2048, 2048, 2048)
  config.optimizer.update(
    name="lars",
    learning_rate=0.2,  # times batch_size / 256, like the next
    bias_learning_rate=0.0048,
    weight_decay=1e-6,
    trust_coefficient=0.001,
    end_factor=0.001,
  )
  config.equivariance.weight = 0.0 if "baseline" in chosen else 2.0

  if "small" in chosen:
    shrink(config)
    config.projector.widths = (512, 512, 512)
  return finish(config, chosen)
