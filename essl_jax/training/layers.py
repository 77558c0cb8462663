"""The layers of an encoder whose features terms see."""

from collections.abc import Callable, Collection, Iterable, Sequence
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax.augment import View
from essl_jax.errors import UsageError, told
from essl_jax.training import applying

Layer = str | None
"""The name of an inner layer; None is the output."""


def asked(
  terms: Iterable[Any], views: Iterable[Sequence[str]], view: str
) -> tuple[Layer, ...]:
  """The layers whose features a method and its terms see of a view.

  Args:
    terms: in order.
    views: names of those that the method sees, then each term.
    view: which one.

  Returns:
    Each layer once.
  """
  each = zip((None, *(term.layer for term in terms)), views, strict=True)
  return tuple(dict.fromkeys(layer for layer, names in each if view in names))


def read(
  encoder: nn.Module, layers: Collection[Layer], **options: Any
) -> Callable[[jax.Array], dict[Layer, jax.Array]]:
  """An encoder as a function of images to the features of several layers.

  Args:
    encoder: of images; with `inner_features` where a layer is asked for.
    layers: which ones.
    **options: of `applying.bind`.

  Returns:
    A function of images to features [N, F] by layer, of one pass. Those of an
    inner layer are float32: of maps [N, H, W, C] the mean over positions; of
    tokens [N, T, F] the class token, or the mean of the others where the
    encoder's `pool` is `mean`.
  """
  output = applying.bind(encoder, **options)
  if not any(layers):
    return lambda images: {None: output(images)}
  run = functools.partial(encoder.inner_features, **output.keywords)
  pool = getattr(encoder, "pool", "token")

  def read(images: jax.Array) -> dict[Layer, jax.Array]:
    found, inner = run(images)
    return {
      layer: found if layer is None else _pooled(inner[layer], pool)
      for layer in layers
    }

  return read


def _pooled(inner: jax.Array, pool: str) -> jax.Array:
  """Features [N, F] of maps, tokens or what is features already."""
  inner = inner.astype(jnp.float32)
  if inner.ndim == 4:
    return jnp.mean(inner, axis=(1, 2))
  if inner.ndim == 3:
    return jnp.mean(inner[:, 1:], axis=1) if pool == "mean" else inner[:, 0]
  return inner


def check(networks: Any, view: View) -> None:
  """Refuses layers of terms that the encoder does not have.

  Args:
    networks: `networks.Networks`.
    view: whose images the encoder is tried on.

  Raises:
    UsageError: names the layers that there are.
  """
  encoder = networks.encoder
  shape = (2, view.size, view.size, len(view.mean))
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  kind = type(encoder).__name__
  for term in networks.terms:
    if term.layer is None:
      continue
    where = f"config.{term.section}.layer={term.layer}"
    if not hasattr(encoder, "inner_features"):
      raise UsageError(
        f"{where}: {kind} has no inner_features: leave the field unset"
      )
    with told(where):  # anybody's code
      inner = jax.eval_shape(_make_inner(encoder), images)
    if term.layer not in inner:
      raise UsageError(
        f"{where}: {kind} has the layers {', '.join(inner)}: name one of them,"
        " or leave the field unset, for the output"
      )
    form = inner[term.layer].shape
    if len(form) not in (2, 3, 4):
      raise UsageError(
        f"{where}: features must be [N, F], tokens [N, T, F] or maps"
        f" [N, H, W, F], and are {list(form)}"
      )


def _make_inner(encoder: nn.Module) -> Callable[[jax.Array], Any]:
  """The inner features of an encoder by layer, of images."""

  def inner(module: Any, x: jax.Array) -> Any:
    options = applying.bind(module, train=False).keywords
    return module.inner_features(x, **options)[1]

  found = nn.init_with_output(inner, encoder)
  return lambda x: found(jax.random.key(0), x)[0]
