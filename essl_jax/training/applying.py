"""Modules as functions, whatever arguments their calls have."""

from collections.abc import Callable
import functools
import inspect
from typing import Any

import flax.linen as nn

from essl_jax.errors import UsageError

OUTPUT = "output"


def bind(module: nn.Module, **options: Any) -> functools.partial[Any]:
  """A module as a function of its input alone.

  Args:
    module: of one input.
    **options: `train` and `image_keys`, where its call has such arguments.

  Returns:
    The function, whose `keywords` are those of these options.
  """
  there = inspect.signature(type(module).__call__).parameters
  given = {name: x for name, x in options.items() if name in there}
  return functools.partial(module, **given)


def read(
  encoder: nn.Module, features: str = OUTPUT, **options: Any
) -> Callable[..., Any]:
  """An encoder as a function of images alone, to the features asked for.

  Args:
    encoder: of images.
    features: `output`, what its call returns; or what its method
      `evaluation_features` knows, such as `ViT`'s.
    **options: of `bind`.

  Returns:
    The function.

  Raises:
    UsageError: the encoder knows of no other features than `output`.
  """
  if features == OUTPUT:
    return bind(encoder, **options)
  if not hasattr(encoder, "evaluation_features"):
    raise UsageError(
      f"config.evaluate_features={features}: {type(encoder).__name__} offers"
      f" {OUTPUT} alone"
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
  """A module's `apply`, whatever it asks for; see `bind`.

  Args:
    module: of one input.
    train: its mode.
    mutable: as of `flax.linen.apply`.
    features: of an encoder; see `read`.

  Returns:
    `(variables, x, *, rngs=None, image_keys=None) -> output`, and the mutable
    collections.
  """

  def call(module: nn.Module, x: Any, image_keys: Any = None) -> Any:
    return read(module, features, train=train, image_keys=image_keys)(x)

  return nn.apply(call, module, mutable=mutable)
