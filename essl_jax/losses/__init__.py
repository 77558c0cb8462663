"""Losses of self-supervised learning as pure functions of arrays.

Every loss returns the mean over its examples, a float32 scalar whatever the
dtype of the inputs.

With `axis_name`, a loss sees the examples of all devices on that mapped axis
and returns the mean over the examples of *this* device. To get the gradient
that one device with the global batch would compute, differentiate

- the mean of the losses under `jax.shard_map` with its default
  `check_vma=True`, where JAX sums the gradients itself:

        jax.grad(lambda p: lax.pmean(loss(p), axis))(params)

- the local loss under `check_vma=False`, `jax.pmap` or `jax.vmap`:

        lax.pmean(jax.grad(loss)(params), axis)

With n devices, the second way under `check_vma=True` gives gradients that are n
times too large. The first way in the other cases gives each device a different
gradient. Taking both means is right everywhere.

Sharded arrays need no `axis_name` outside mapped functions: there `jax.jit`
sees the global batch, also with explicit axes (`jax.make_mesh`). Gradients stay
finite for rows of zeros, also in float16.
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
