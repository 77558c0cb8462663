"""Schedules, SGD, LARS, AdamW, and optimisers with parameter groups."""

from essl_jax.optim.groups import (
  Clip,
  Group,
  describe_groups,
  label,
  make_optimizer,
)
from essl_jax.optim.optimizers import adamw, is_kernel, is_matrix, lars, sgd
from essl_jax.optim.schedules import momentum_coefficient, warmup_cosine

__all__ = [
  "Clip",
  "Group",
  "adamw",
  "describe_groups",
  "is_kernel",
  "is_matrix",
  "label",
  "lars",
  "make_optimizer",
  "momentum_coefficient",
  "sgd",
  "warmup_cosine",
]
