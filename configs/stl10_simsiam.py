"""E-SimSiam on STL-10: ResNet-18, 100 epochs, four-fold rotations predicted.

  python -m essl_jax.main --config=configs/stl10_simsiam.py --workdir=runs/stl10
  python -m essl_jax.main --config=configs/stl10_simsiam.py:baseline
  python -m essl_jax.main --config=configs/stl10_simsiam.py:small

Data, views, variants and training are the same as in stl10_simclr.py. Never
run, because the data was not available.
"""

import ml_collections
from stl10_simclr import VARIANTS, make

from essl_jax.config import variants


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  config = make("simsiam", variant)
  if "prediction" in config.terms:
    config.equivariance.last_hidden_relu = False
  if "small" in variants(variant, VARIANTS):
    config.predictor_hidden = 128
  return config
