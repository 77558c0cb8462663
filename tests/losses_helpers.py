"""The losses of pairs of views that the tests share."""

import functools

from essl_jax import losses

PAIRWISE = {
  "info_nce": functools.partial(losses.info_nce, temperature=0.2),
  "nt_xent": functools.partial(losses.nt_xent, temperature=0.1),
  "negative_cosine": losses.negative_cosine_similarity,
  "byol": losses.byol,
  "barlow_twins": functools.partial(
    losses.barlow_twins, redundancy_weight=0.0051
  ),
}
OF_ONE_EXAMPLE = ("negative_cosine", "byol")  # these take no axis
