"""Turns modules into functions, whatever arguments their calls take."""

from collections.abc import Callable
import functools
import inspect
from typing import Any

import flax.linen as nn

from essl_jax.errors import UsageError

OUTPUT = "output"


def bind(module: nn.Module, **options: Any) -> functools.partial[Any]:
  """Turns a module into a function of its input alone.

  Args:
    module: takes one input.
    **options: `train` and `image_keys`; those that its call does not take are
      dropped.

  Returns:
    The function; its `keywords` are the options that were kept.
  """
  there = inspect.signature(type(module).__call__).parameters
  given = {name: x for name, x in options.items() if name in there}
  return functools.partial(module, **given)


def read(
  encoder: nn.Module, features: str = OUTPUT, **options: Any
) -> Callable[..., Any]:
  """Turns an encoder into a function from images to the chosen features.

  Args:
    encoder: takes images.
    features: `output`, what its call returns, or a kind that its method
      `evaluation_features` offers, such as `ViT`'s.
    **options: see `bind`.

  Returns:
    The function.

  Raises:
    UsageError: the encoder offers no features other than `output`.
  """
  if features == OUTPUT:
    return bind(encoder, **options)
  if not hasattr(encoder, "evaluation_features"):
    raise UsageError(
      f"config.evaluate_features={features}: {type(encoder).__name__} offers"
      f" only {OUTPUT}"
    )
  return functools.partial(
    encoder.evaluation_features, kind=features, **options
  )


def make_apply(
  module: nn.Module,
  *,
  train: bool,
  mutable: Any = False,
  features: str = OUTPUT,
) -> Callable[..., Any]:
  """A module's `apply`, whatever arguments its call takes; see `bind`.

  Args:
    module: takes one input.
    train: its mode.
    mutable: see `flax.linen.apply`.
    features: of an encoder; see `read`.

  Returns:
    `(variables, x, *, rngs=None, image_keys=None) -> output`, and the mutable
    collections.
  """

  def call(module: nn.Module, x: Any, image_keys: Any = None) -> Any:
    return read(module, features, train=train, image_keys=image_keys)(x)

  return nn.apply(call, module, mutable=mutable)
