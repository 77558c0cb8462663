r"""E-Barlow Twins on ImageNet: ResNet-50, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/imagenet_barlow_twins.py \
    --workdir=runs/essl
  python -m essl_jax.main --config=configs/imagenet_barlow_twins.py:epochs=800
  python -m essl_jax.main --config=configs/imagenet_barlow_twins.py:baseline
  python -m essl_jax.main --config=configs/imagenet_barlow_twins.py:scale=large
  python -m essl_jax.main --config=configs/imagenet_barlow_twins.py \
    --config.data.name=folder --config.data.dir=/data/imagenet

Data, views and variants are the same as in imagenet_simclr.py.

Accuracy of the paper (arXiv 2111.00899; linear probe, top-1, %; not measured
here):
  epochs                          100   200   300
  Barlow Twins                   66.7  69.8  70.9
  E-Barlow Twins, scale=small    67.5  70.9  71.8
  E-Barlow Twins, scale=large    67.3  70.6  71.8

Linear probe: SGD for 100 epochs at batch size 256, cosine per epoch from a
learning rate of 0.3, the default of Barlow Twins' evaluate.py (its README has
0.1 for the published network; for E-SimCLR, the paper's log has 0.3 and its
script 1.0).

Hours: the authors of Barlow Twins report about 124 h for 1000 epochs of the
plain method at batch size 2048 on 32 V100 GPUs (arXiv 2103.03230, section 2.2;
as remembered). Four crops of 96 pixels add 37% to the pixels of two of 224.
"""

from imagenet_simclr import VARIANTS, shrink, start
import ml_collections

from essl_jax.config import variants


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  config = start("barlow_twins", chosen)
  config.batch_size = 4096
  config.online_classifier = True
  config.optimizer.update(
    name="lars",
    learning_rate=0.2,  # times batch_size / 256, like the next
    bias_learning_rate=0.0048,
    weight_decay=1e-6,
    trust_coefficient=0.001,
    end_factor=0.001,
  )
  config.equivariance.weight = 0.0 if "baseline" in chosen else 8.0
  config.equivariance.hidden_widths = (2048, 2048, 256)
  config.probe.update(learning_rate=0.3, weight_decay=1e-6)

  if "tiny" in chosen:
    shrink(config)
    config.projector.widths = (32, 32, 32)
    config.optimizer.warmup_epochs = 1
  return config
