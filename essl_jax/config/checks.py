"""Refuses values that are valid by themselves but not together."""

from collections.abc import Mapping
import itertools
from typing import Any, NoReturn

from essl_jax.config import parts
from essl_jax.config.config import Config, Optimizer
from essl_jax.errors import UsageError


def check(config: Config) -> None:
  """Refuses values that are not valid together.

  Args:
    config: with values of the right types.

  Raises:
    UsageError: names the fields and what is allowed.
  """
  data = config.data
  if data.labelled_test_split is not None and data.labelled_dir is None:
    refuse("an unset data.labelled_dir", "data.labelled_test_split")
  _check_resolution(config.views.resolution)
  _check_optimizer(config)


def _check_resolution(stages: tuple[tuple[float, float], ...]) -> None:
  begins = [begin for begin, _ in stages]
  rises = all(a < b for a, b in itertools.pairwise(begins))
  if stages and (begins[0] != 0 or not rises):
    raise UsageError(
      "config.views.resolution must be pairs (part of the training, fraction"
      " of the views' sizes): parts rise from 0 and stay below 1, fractions"
      f" are above 0 and at most 1; got {stages}"
    )


def _check_optimizer(config: Config) -> None:
  optimizer = config.optimizer
  is_lars = optimizer.name == "lars"
  if is_lars != (optimizer.trust_coefficient is not None):
    verb = "needs" if is_lars else "does not read"
    raise UsageError(
      f"optimizer {optimizer.name} {verb} config.optimizer.trust_coefficient"
    )
  if optimizer.name != "adamw" and optimizer.beta2 != Optimizer.beta2:
    refuse(f"optimizer {optimizer.name}", "optimizer.beta2")
  if optimizer.clip_rate and not is_lars:
    refuse(f"optimizer {optimizer.name}", "optimizer.clip_rate")
  if optimizer.clip_each_array and optimizer.clip_gradients is None:
    refuse("an unset optimizer.clip_gradients", "optimizer.clip_each_array")
  if optimizer.warmup_from and not optimizer.warmup_epochs:
    refuse("optimizer.warmup_epochs=0", "optimizer.warmup_from")
  if optimizer.warmup_epochs >= max(config.epochs, 1):
    raise UsageError(
      f"config.optimizer.warmup_epochs ({optimizer.warmup_epochs})"
      f" must be below config.epochs ({config.epochs})"
    )


def refuse(chosen: str, name: str) -> NoReturn:
  """Raises UsageError: the chosen part does not read the field."""
  raise UsageError(f"{chosen} does not read config.{name}: leave it unset")


def refuse_unread(
  raw: Mapping[str, Any], name: str, kind: parts.Kind
) -> NoReturn:
  """Raises UsageError: the field belongs to a part that is not chosen."""
  if kind is parts.METHOD:
    refuse(f"method {raw['method']}", name)
  raise UsageError(
    f"config.{name} belongs to a part that config.{kind.field} does not name:"
    " add it there, or leave the field unset"
  )
