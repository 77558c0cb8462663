"""Features of an encoder's inner layers, for terms."""

from collections.abc import Callable, Collection, Iterable, Sequence
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax.augment import View
from essl_jax.equivariance.term import Term
from essl_jax.errors import UsageError, told
from essl_jax.training import applying

Layer = str | None
"""The name of an inner layer; None is the output."""


def asked(
  terms: Iterable[Any], views: Iterable[Sequence[str]], view: str
) -> tuple[Layer, ...]:
  """Lists the layers whose features a method and its terms use for a view.

  Args:
    terms: in order.
    views: names of the views that the method sees, then those of each term.
    view: the view's name.

  Returns:
    Each layer once.
  """
  each = zip((None, *(term.layer for term in terms)), views, strict=True)
  return tuple(dict.fromkeys(layer for layer, names in each if view in names))


def read(
  encoder: nn.Module, layers: Collection[Layer], **options: Any
) -> Callable[[jax.Array], dict[Layer, jax.Array]]:
  """Turns an encoder into a function from images to features of some layers.

  Args:
    encoder: takes images; needs `inner_features` for an inner layer.
    layers: the layers.
    **options: see `applying.bind`.

  Returns:
    A function from images to features [N, F] by layer, in one pass. Features of
    an inner layer are float32: maps [N, H, W, C] are averaged over positions;
    tokens [N, T, F] give the class token, or the mean of the others if the
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
  """Pools maps or tokens to features [N, F]; returns features as they are."""
  inner = inner.astype(jnp.float32)
  if inner.ndim == 4:
    return jnp.mean(inner, axis=(1, 2))
  if inner.ndim == 3:
    return jnp.mean(inner[:, 1:], axis=1) if pool == "mean" else inner[:, 0]
  return inner


def check(networks: Any, view: View) -> None:
  """Refuses layers that the encoder lacks, and features that no term can use.

  Args:
    networks: `networks.Networks`.
    view: the encoder is tried on its images.

  Raises:
    UsageError: names the encoder's layers, or says what is wrong.
  """
  encoder = networks.encoder
  shape = (2, view.size, view.size, len(view.mean))
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  for term in networks.terms:
    is_asked = type(term).check_features is not Term.check_features
    if term.layer is None and not is_asked:
      continue
    where = f"config.{term.section}"
    if term.layer is not None:
      _check_layer(f"{where}.layer={term.layer}", encoder, term.layer, images)
    with told(where):  # may be a user's own code
      see = lambda module, x, layers: read(module, layers, train=False)(x)
      seen = functools.partial(see, layers=(term.layer,))
      found = _shapes(encoder, seen, images)
      term.check_features(found[term.layer].shape[-1])


def _check_layer(
  where: str, encoder: nn.Module, layer: str, images: jax.ShapeDtypeStruct
) -> None:
  """Raises UsageError unless the encoder offers features of a layer."""
  kind = type(encoder).__name__
  if not hasattr(encoder, "inner_features"):
    raise UsageError(
      f"{where}: {kind} has no inner_features: leave the field unset"
    )
  inner = lambda module, x: module.inner_features(x, **_options(module))[1]
  with told(where):  # may be a user's own code
    found = _shapes(encoder, inner, images)
  if layer not in found:
    raise UsageError(
      f"{where}: {kind} has the layers {', '.join(found)}: name one of them,"
      " or leave the field unset, for the output"
    )
  form = found[layer].shape
  if len(form) not in (2, 3, 4):
    raise UsageError(
      f"{where}: features must be [N, F], tokens [N, T, F] or maps"
      f" [N, H, W, F], and are {list(form)}"
    )


def _options(module: Any) -> dict[str, Any]:
  return applying.bind(module, train=False).keywords


def _shapes(
  encoder: nn.Module,
  function: Callable[[Any, jax.Array], Any],
  images: jax.ShapeDtypeStruct,
) -> Any:
  """The output shapes of a function of the initialised encoder and images."""
  made = nn.init_with_output(function, encoder)
  return jax.eval_shape(lambda x: made(jax.random.key(0), x)[0], images)
