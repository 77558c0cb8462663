"""Losses of self-supervised learning as pure functions of arrays.

Every loss returns a float32 scalar, the mean over the examples it is given,
whatever the dtype of its inputs.

With `axis_name`, a loss sees the examples of all devices of that mapped axis
and returns the mean over the examples of *this* device. To get the gradient of
one device that holds the global batch, differentiate

- the mean of the losses under `jax.shard_map` as it is (`check_vma=True`),
  where JAX sums the gradients itself:

        jax.grad(lambda p: lax.pmean(loss(p), axis))(params)

- the local loss under `check_vma=False`, `jax.pmap` and `jax.vmap`:

        lax.pmean(jax.grad(loss)(params), axis)

The second way under `check_vma=True` gives gradients as many times too large as
there are devices, the first way elsewhere other ones on each device. Both means
at once are right everywhere.

Arrays divided among devices need no `axis_name` outside of mapped functions:
`jax.jit` then sees the global batch, with explicit axes (`jax.make_mesh`) too.
Gradients stay finite for rows of zeros, in float16 too.
"""

from essl_jax.losses.common import unit_length
from essl_jax.losses.contrastive import info_nce, moco_v3, nt_xent
from essl_jax.losses.distillation import dino, update_center
from essl_jax.losses.predictive import (
  byol,
  negative_cosine_similarity,
  transformation_prediction,
)
from essl_jax.losses.redundancy import barlow_twins, vicreg

__all__ = [
  "barlow_twins",
  "byol",
  "dino",
  "info_nce",
  "moco_v3",
  "negative_cosine_similarity",
  "nt_xent",
  "transformation_prediction",
  "unit_length",
  "update_center",
  "vicreg",
]
