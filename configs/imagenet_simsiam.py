r"""E-SimSiam on ImageNet: ResNet-50, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/imagenet_simsiam.py \
    --workdir=runs/essl
  python -m essl_jax.main --config=configs/imagenet_simsiam.py:epochs=800
  python -m essl_jax.main --config=configs/imagenet_simsiam.py:baseline
  python -m essl_jax.main --config=configs/imagenet_simsiam.py:scale=large
  python -m essl_jax.main --config=configs/imagenet_simsiam.py \
    --config.data.name=folder --config.data.dir=/data/imagenet

Data, views and variants are the same as in imagenet_simclr.py.

Accuracy of the paper (arXiv 2111.00899; linear probe, top-1, %; not measured
here), 100 epochs: SimSiam 67.9, E-SimSiam 68.5.

The projector has three layers, as in SimSiam (arXiv 2011.10566, section 3).

Linear probe: LARS for 90 epochs at batch size 4096, cosine per epoch from a
learning rate of 0.1 * 4096 / 256, no decay, as in SimSiam's main_lincls.py.

Hours: not published for E-SimSiam. Four crops of 96 pixels add 37% to the
pixels of two of 224.
"""

from imagenet_simclr import VARIANTS, shrink, start
import ml_collections

from essl_jax.config import variants


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  config = start("simsiam", chosen)
  config.projector.widths = (2048, 2048, 2048)
  config.optimizer.update(
    learning_rate=0.05,  # times batch_size / 256
    weight_decay=1e-4,
    warmup_epochs=0,
    update_rate_every="epoch",
  )
  config.equivariance.weight = 0.0 if "baseline" in chosen else 0.08
  config.equivariance.hidden_widths = (2048, 2048, 128)
  config.probe.update(
    epochs=90, batch_size=4096, optimizer="lars", learning_rate=1.6
  )

  if "tiny" in chosen:
    shrink(config)
    config.projector.widths = (32, 32, 32)
    config.predictor_hidden = 16
    # LARS at the recipe's rate would hardly learn in so few steps.
    config.probe.update(optimizer="sgd", learning_rate=0.3)
  return config
