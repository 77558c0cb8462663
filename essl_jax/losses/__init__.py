"""Losses of self-supervised learning as pure functions of arrays.

Every loss returns a float32 scalar, the mean over the examples it is given,
whatever the dtype of its inputs.

With `axis_name`, a loss sees the examples of all devices of that mapped axis
and returns the mean over the examples of *this* device. Differentiate that
local value and average the gradients over the axis (`jax.lax.pmean`): the
result is the gradient of one device that holds the global batch. Averaging
the loss inside `jax.grad` instead gives wrong gradients.
"""

from essl_jax.losses.common import unit_length
from essl_jax.losses.contrastive import info_nce, nt_xent
from essl_jax.losses.predictive import (
  byol,
  negative_cosine_similarity,
  transformation_prediction,
)
from essl_jax.losses.redundancy import barlow_twins

__all__ = [
  "barlow_twins",
  "byol",
  "info_nce",
  "negative_cosine_similarity",
  "nt_xent",
  "transformation_prediction",
  "unit_length",
]
