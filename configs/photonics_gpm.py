r"""E-SimCLR on photonic crystals with a mirror line; predicts quarter turns.

  python -m essl_jax.main --config=configs/photonics_gpm.py:small
  python -m essl_jax.main --config=configs/photonics_gpm.py:small,simclr
  python -m essl_jax.main --config=configs/photonics_gpm.py \
    --config.data.dir=DIR

As photonics_blob.py beside it, which has the variants, the reference and the
differences from the original program, but for cells and symmetries. DIR holds
what `python -m essl_jax.photonics.generate --kind=gpm` makes; in the paper
20,480 cells without labels, 3,000 to fine-tune on and 2,000 to test on.

Flips and shifts over the edges by any number of pixels leave the density of
states as it is, so both views undergo them. E-SimCLR predicts which of four
quarter turns was applied: the mirror line (plane group pm) has a fixed
direction. At most half of the turns can be recognised: a half turn leaves the
mirror line as it is, and the cells are as likely upside down.
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
