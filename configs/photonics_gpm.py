r"""E-SimCLR on photonic crystals with a mirror line; predicts quarter turns.

  python -m essl_jax.main --config=configs/photonics_gpm.py:small
  python -m essl_jax.main --config=configs/photonics_gpm.py:small,simclr
  python -m essl_jax.main --config=configs/photonics_gpm.py \
    --config.data.dir=DIR

Differs from photonics_blob.py only in cells and symmetries. That file has the
variants, the reference and the differences from the original program. DIR holds
the output of `python -m essl_jax.photonics.generate --kind=gpm`; the paper has
20,480 cells without labels, 3,000 to fine-tune on and 2,000 to test on.

Flips and cyclic shifts by any number of pixels do not change the density of
states, so both views are augmented with them. E-SimCLR predicts which of four
quarter turns was applied, because the mirror line (plane group pm) has a fixed
direction. At most half of the turns can be recognised: a half turn does not
change the mirror line, and upside-down cells are equally likely.
"""

import ml_collections
import photonics_blob

VARIANTS = photonics_blob.VARIANTS


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  return photonics_blob.make(
    variant,
    kind="gpm",
    invariances=("any_roll", "flips"),
    predicted="rotation",
  )
