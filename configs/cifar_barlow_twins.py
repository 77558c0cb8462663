"""E-Barlow Twins on CIFAR-10: ResNet-18, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/cifar_barlow_twins.py
  python -m essl_jax.main --config=configs/cifar_barlow_twins.py:baseline
  python -m essl_jax.main --config=configs/cifar_barlow_twins.py:small
  python -m essl_jax.main --config=configs/cifar_barlow_twins.py:small,baseline

Variants:
  baseline  Barlow Twins: no rotations are predicted.
  small     5,000 images, a quarter of the width; minutes on 2 CPU cores.

The paper has Barlow Twins on ImageNet only. This recipe takes views, encoder
and length from its CIFAR-10 recipes, loss and LARS from its ImageNet recipe,
and scales projector and lambda to a quarter. Plain Barlow Twins reaches 92.1%
(online linear classifier, 1000 epochs) in solo-learn's table;
experiments/README.md has what was measured here.

On one accelerator add --config.precision=bfloat16 and, for the fastest input,
--config.data.on_device=True.
"""

import ml_collections

from essl_jax.config import base, variants

VARIANTS = {
  "baseline": "without equivariance",
  "small": "minutes on 2 CPU cores",
}


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  config = base(method="barlow_twins")
  config.data.name = "cifar10"
  config.encoder.stem = "cifar"
  config.views.third.size = 16
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
  config.probe.resize_size = 36
  config.measures.groups = ("rotation",)

  if "small" in chosen:
    config.epochs = 4
    config.batch_size = 128
    config.data.train_split = "train[:5000]"
    config.encoder.width = 16
    config.projector.widths = (512, 512, 512)
    config.equivariance.hidden_widths = (512, 512)
    config.optimizer.warmup_epochs = 1
    config.probe.protocol = "fast"
  return config
