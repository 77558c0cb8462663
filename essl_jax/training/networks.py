"""The networks of a run: the encoder, and the heads of method and terms."""

from collections.abc import Callable, Collection, Iterable, Mapping
import dataclasses
import inspect
from typing import Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from essl_jax import config as config_lib
from essl_jax import transformations
from essl_jax.config import parts
from essl_jax.errors import UsageError, told
from essl_jax.training import hooks
from essl_jax.training import layers as layers_lib
from essl_jax.training.applying import bind
from essl_jax.training.draws import copy_keys

Views = Mapping[str, jax.Array]
"""Normalised images [N, H, W, C] by view name."""


class Networks(nn.Module):
  """Encoder and heads; each view is one encoder pass with its own statistics.

  Attributes:
    encoder: maps images [N, H, W, C] to features [N, F].
    method: its heads and `forward` follow the encoder.
    terms: likewise, in order.
    asked: the names of the views that the method asks for, then each term's;
      each gets the features of only the views that it asked for.
    common: arguments of all heads; see `Method.make_heads`.
    is_target: whether this is a target network, with a target's heads only.
  """

  encoder: nn.Module
  method: Any
  terms: tuple[Any, ...] = ()
  asked: tuple[tuple[str, ...], ...] = ()
  common: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  is_target: bool = False

  @property
  def needs_labels(self) -> bool:
    """Whether a term needs the images' classes."""
    return any(term.needs_labels for term in self.terms)

  @property
  def aside_heads(self) -> tuple[str, ...]:
    """Heads of terms that send no gradient to other networks."""
    terms = [term for term in self.terms if term.is_aside]
    return tuple(
      name for x in terms for name in hooks.make_heads(x, **self.common)
    )

  def as_target(self) -> "Networks":
    """The target's networks, without stochastic depth, like DINO's teacher."""
    encoder = self.encoder
    if any(x.name == "stochastic_depth" for x in dataclasses.fields(encoder)):
      encoder = encoder.clone(stochastic_depth=0.0)
    return self.clone(is_target=True, terms=(), encoder=encoder)

  def setup(self) -> None:
    """Makes the heads under the names that their parts give them."""
    made: dict[str, nn.Module] = {}
    for part in (self.method, *self.terms):
      for name, head in hooks.make_heads(part, **self.common).items():
        if name in made or hasattr(self, name):
          owner = "another part" if name in made else "Networks"
          raise UsageError(
            f"{type(part).__name__} has a head {name}, a name that {owner}"
            " already uses: rename it"
          )
        if not self.is_target or name in (self.method.target_heads or ()):
          made[name] = head
    for name, head in made.items():
      setattr(self, name, head)
    self._names = tuple(made)

  def __call__(
    self,
    views: Views,
    targets: Mapping[str, Any],
    *,
    train: bool,
    image_keys: jax.Array | None = None,
  ) -> tuple[Any, ...]:
    """Encodes the views in order, then runs the method and the terms.

    Args:
      views: in the order in which they are encoded and update the running
        statistics.
      targets: what their transforms have returned, by name.
      train: batch norms use the batch's statistics and update the running ones.
      image_keys: a random key per image, [N], for encoders that use them.

    Returns:
      What the method's `forward` returns, then each term's.
    """
    heads = self._heads(train)
    options: dict[str, Any] = {"train": train, "image_keys": image_keys}
    if self.is_target:
      views = _chosen(views, self.method.target_views or self.asked[0])
      features = self.encode(views, **options)
      return (hooks.ask(self.method, "forward_target", heads, features),)
    seen = {}
    for name, images in views.items():
      layers = layers_lib.asked(self.terms, self.asked, name)
      seen[name] = self._see(name, images, layers, **options)
    of_layer = lambda names, layer: {x: seen[x][layer] for x in names}
    own = of_layer(self.asked[0], None)
    found = [hooks.ask(self.method, "forward", heads, own)]
    for term, names in zip(self.terms, self.asked[1:], strict=True):
      own = of_layer(names, term.layer)
      found.append(hooks.ask(term, "forward", heads, own, targets))
    return tuple(found)

  def encode(
    self,
    views: Views,
    *,
    train: bool,
    image_keys: jax.Array | None = None,
    layer: layers_lib.Layer = None,
  ) -> dict[str, jax.Array]:
    """The features [N, F] of each view, of an inner layer if one is given."""
    options: dict[str, Any] = {"train": train, "image_keys": image_keys}
    return {
      name: self._see(name, images, (layer,), **options)[layer]
      for name, images in views.items()
    }

  def _see(
    self,
    view: str,
    images: jax.Array,
    layers: Collection[layers_lib.Layer],
    *,
    train: bool,
    image_keys: jax.Array | None,
  ) -> dict[layers_lib.Layer, jax.Array]:
    """The features of a view's images by layer, from one pass."""
    options: dict[str, Any] = {"train": train}
    if image_keys is not None:
      options["image_keys"] = copy_keys(image_keys, view, len(images))
    with told(type(self.encoder).__name__):
      return layers_lib.read(self.encoder, layers, **options)(images)

  def ask_term(
    self, number: int, views: Views, targets: Mapping[str, Any], *, train: bool
  ) -> Any:
    """Runs one term's `forward`; takes the arguments of `__call__`."""
    term, heads = self.terms[number], self._heads(train)
    features = self.encode(views, train=train, layer=term.layer)
    return hooks.ask(term, "forward", heads, features, targets)

  def ask_heads(
    self, question: Callable[[Mapping[str, Any]], Any], *, train: bool
  ) -> Any:
    """Calls a function with the heads, which are functions by name."""
    return question(self._heads(train))

  def _heads(self, train: bool) -> dict[str, Callable[..., jax.Array]]:
    heads = {name: getattr(self, name) for name in self._names}
    return {name: bind(head, train=train) for name, head in heads.items()}


def _chosen(features: Views, names: Iterable[str]) -> dict[str, jax.Array]:
  return {name: features[name] for name in names}


def make_encoder(
  group: config_lib.Encoder, precision: str, **layers: Any
) -> nn.Module:
  """Builds the encoder of a config.

  Args:
    group: `config.encoder`.
    precision: `config.precision`.
    **layers: `axis_name`, over which batch norms share statistics,
      `conv_general_dilated` (see `models.resnet`), `dot_general` (see
      `models.heads`) and `dot_product_attention` (see `models.vit`).

  Returns:
    The module; it gets the `dtype` and those of `layers` for which it has an
    attribute.

  Raises:
    UsageError: the encoder's fields describe no valid network.
  """
  kind = parts.ENCODER.find(group.name)
  there = inspect.signature(kind).parameters
  layers["dtype"] = jnp.dtype(precision)
  given = {name: x for name, x in layers.items() if name in there}
  with told("config.encoder"):
    return kind(**config_lib.encoder_fields(group), **given)


def make_networks(
  config: config_lib.Config,
  terms: Iterable[Any] | None = None,
  **layers: Any,
) -> Networks:
  """Builds the encoder and the heads that a config describes.

  Args:
    config: of the run.
    terms: the active ones; those of `active_terms` if None.
    **layers: see `make_encoder`.

  Returns:
    The networks.

  Raises:
    UsageError: the encoder's fields describe no valid network, or a part asks
      for no views.
  """
  method = config_lib.method(config)
  terms = tuple(active_terms(config) if terms is None else terms)
  return Networks(
    encoder=make_encoder(config.encoder, config.precision, **layers),
    method=method,
    terms=terms,
    asked=tuple(
      tuple(request.name for request in hooks.requests(part, config.views))
      for part in (method, *terms)
    ),
    common={
      "dtype": jnp.dtype(config.precision),
      "axis_name": layers.get("axis_name"),
      "dot_general": layers.get("dot_general", lax.dot_general),
    },
  )


def active_terms(config: config_lib.Config) -> list[Any]:
  """The equivariance terms of a config whose weight is not 0."""
  return [term for term in config_lib.terms(config) if term.weight]


def _check_heads(method: Any) -> None:
  """Refuses names of heads that a method does not make."""
  made = hooks.make_heads(
    method, dtype=jnp.float32, axis_name=None, dot_general=lax.dot_general
  )
  rates = method.learning_rates(1.0, lambda step: step)
  for name in (*rates, *method.frozen_heads(), *(method.target_heads or ())):
    if name not in made:
      raise UsageError(
        f"{type(method).__name__} names a head {name} in learning_rates,"
        f" frozen_heads or target_heads and makes only {', '.join(made)}"
      )


def check_parts(config: config_lib.Config) -> None:
  """Refuses a config that its parts cannot train.

  Args:
    config: of the run.

  Raises:
    UsageError: in one line.
  """
  if config.views.extra is not None:
    try:
      transformations.find_augmentation(config.views.extra)
    except ValueError as error:
      raise UsageError(f"config.views.extra: {error}") from error
  terms = config_lib.terms(config)
  method = config_lib.method(config)
  network = config_lib.evaluated_network(config)
  if network == "target" and method.target_heads is None:
    raise UsageError(
      f"config.evaluate_network=target: method {config.method} has no target"
      " network: leave it unset"
    )
  with told(f"config.method={config.method}"):
    method.check(config)
    _check_heads(method)
  for name, term in zip(config.terms, terms, strict=True):
    with told(f"config.terms={name}"):
      term.check(config)
      kind = transformations.TransformationGroup
      if not all(isinstance(group, kind) for group in term.groups):
        raise UsageError(
          f"{type(term).__name__}.groups must be TransformationGroups"
        )
  for name, evaluation in zip(
    config.evaluations, config_lib.evaluations(config), strict=True
  ):
    if config.mode in evaluation.modes:
      with told(f"config.evaluations={name}"):
        evaluation.check_config(config)
  if not method.views:
    if not any(term.weight for term in terms):
      change = "name one in config.terms"
      if terms:
        change = f"set config.{terms[0].section}.weight above 0, such as 1"
      raise UsageError(
        f"config.method={config.method} learns from terms only, and no term has"
        f" a weight above 0: {change}"
      )
    if config.online_classifier:
      raise UsageError(
        f"config.online_classifier sees view 1, which config.method="
        f"{config.method} does not draw: set it to False"
      )
  layers_lib.check(make_networks(config), config.views.first)
