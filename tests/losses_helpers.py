"""The losses of pairs of views that the tests share."""

import functools

import jax.numpy as jnp

from essl_jax import losses


def dino_of_pair(z1, z2):
  """DINO's loss of two crops; the columns of a pair are its prototypes."""
  crops = jnp.concatenate([z1, z2])
  return losses.dino(
    crops,
    crops,
    center=jnp.linspace(-0.5, 0.5, z1.shape[-1]),
    student_temperature=0.1,
    teacher_temperature=0.04,
  )


PAIRWISE = {
  "info_nce": functools.partial(losses.info_nce, temperature=0.2),
  "nt_xent": functools.partial(losses.nt_xent, temperature=0.1),
  "negative_cosine": losses.negative_cosine_similarity,
  "byol": losses.byol,
  "barlow_twins": functools.partial(
    losses.barlow_twins, redundancy_weight=0.0051
  ),
  "vicreg": functools.partial(
    losses.vicreg,
    invariance_weight=25,
    variance_weight=25,
    covariance_weight=1,
  ),
  "moco_v3": functools.partial(losses.moco_v3, temperature=0.2),
  "dino": dino_of_pair,
}
OF_ONE_EXAMPLE = ("negative_cosine", "byol", "dino")  # these take no axis
# Embeddings of another size have another loss.
OF_SIZE = ("vicreg", "dino")
