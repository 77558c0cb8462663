r"""E-SimSiam on Flowers-102: ResNet-18, 800 epochs, rotations predicted.

  python -m essl_jax.main --config=configs/flowers_simsiam.py
  python -m essl_jax.main --config=configs/flowers_simsiam.py:baseline
  python -m essl_jax.main --config=configs/flowers_simsiam.py:small
  python -m essl_jax.main --config=configs/flowers_simsiam.py \
    --config.equivariance.group=half_translation

Data, views, variants and training are the same as in flowers_simclr.py, which
also has the paper's figures. Never run, because the data was not available.
"""

from flowers_simclr import VARIANTS, make
import ml_collections

from essl_jax.config import variants


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  config = make("simsiam", variant)
  config.equivariance.last_hidden_relu = False
  if "small" in variants(variant, VARIANTS):
    config.predictor_hidden = 128
  return config
