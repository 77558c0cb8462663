"""SSL methods: heads plus a loss on two views; the equivariance term, once.

A method sees the outputs of the networks for two views. The equivariance term
is the same for every method and every transformation group:

    loss = ssl(view 1, view 2) + weight * cross_entropy(head(encoder(g view 3)))

Reference: Dangovski et al. 2022 (arXiv 2111.00899), equation 2.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from essl_jax import config as config_lib
from essl_jax import losses, transformations
from essl_jax.errors import UsageError
from essl_jax.models import heads, photonics, resnet


class Outputs(NamedTuple):
  """What the networks make of one batch.

  Attributes:
    projections: of views 1 and 2, each [N, D].
    predictions: of views 1 and 2, each [N, D]; empty without a predictor.
    logits: [M, elements] of the transformed third view; None for a baseline.
    class_logits: [N, classes] of view 1; None without an online classifier.
  """

  projections: tuple[jax.Array, ...]
  predictions: tuple[jax.Array, ...] = ()
  logits: jax.Array | None = None
  class_logits: jax.Array | None = None


class Networks(nn.Module):
  """Encoder and heads, with one encoder pass and its own statistics a view.

  Attributes:
    encoder: images [N, H, W, C] to features [N, F].
    projector: features to projections, for the SSL loss.
    predictor: projections to predictions (SimSiam), or None.
    transformation_head: features to scores of group elements, or None for a
      baseline.
    classifier: features to scores of classes, trained alongside, or None.
  """

  encoder: nn.Module
  projector: nn.Module
  predictor: nn.Module | None = None
  transformation_head: nn.Module | None = None
  classifier: nn.Module | None = None

  def __call__(
    self,
    view1: chex.Array,
    view2: chex.Array,
    transformed: chex.Array | None,
    *,
    train: bool,
  ) -> Outputs:
    """Runs the passes in the order in which they move running statistics."""
    features = [self.encoder(view, train=train) for view in (view1, view2)]
    projections = tuple(self.projector(f, train=train) for f in features)
    predictions: tuple[jax.Array, ...] = ()
    if self.predictor is not None:
      predictions = tuple(self.predictor(z, train=train) for z in projections)
    logits = None
    if self.transformation_head is not None:
      features3 = self.encoder(transformed, train=train)
      logits = self.transformation_head(features3, train=train)
    class_logits = None
    if self.classifier is not None:
      class_logits = self.classifier(lax.stop_gradient(features[0]))
    return Outputs(projections, predictions, logits, class_logits)


SslLoss = Callable[[Outputs], jax.Array]


@dataclasses.dataclass(frozen=True)
class Method:
  """How a method is built from a config.

  Attributes:
    loss: `(outputs, *, axis_name, **those fields) -> scalar`.
    loss_fields: config fields of the loss.
    network_fields: config fields of the networks.
  """

  loss: Callable[..., jax.Array]
  loss_fields: tuple[str, ...] = ()
  network_fields: tuple[str, ...] = ()


def simclr_loss(
  outputs: Outputs, *, temperature: float, axis_name: str | None = None
) -> jax.Array:
  """InfoNCE averaged over both directions, as in the E-SSL program."""
  z1, z2 = outputs.projections
  info_nce = functools.partial(
    losses.info_nce, temperature=temperature, axis_name=axis_name
  )
  return (info_nce(z1, z2) + info_nce(z2, z1)) / 2


def simclr_nt_xent_loss(
  outputs: Outputs, *, temperature: float, axis_name: str | None = None
) -> jax.Array:
  """SimCLR's own loss, with negatives from both views."""
  return losses.nt_xent(
    *outputs.projections, temperature=temperature, axis_name=axis_name
  )


def simsiam_loss(
  outputs: Outputs, *, axis_name: str | None = None
) -> jax.Array:
  """Symmetric negative cosine similarity; examples do not see each other."""
  del axis_name
  p1, p2 = outputs.predictions
  z1, z2 = outputs.projections
  cosine = losses.negative_cosine_similarity
  return (cosine(p1, z2) + cosine(p2, z1)) / 2


def barlow_twins_loss(
  outputs: Outputs, *, redundancy_weight: float, axis_name: str | None = None
) -> jax.Array:
  """Redundancy reduction between the projections of both views."""
  return losses.barlow_twins(
    *outputs.projections,
    redundancy_weight=redundancy_weight,
    axis_name=axis_name,
  )


METHODS: Mapping[str, Method] = {
  "simclr": Method(simclr_loss, loss_fields=("temperature",)),
  "simsiam": Method(simsiam_loss, network_fields=("predictor_hidden",)),
  "barlow_twins": Method(barlow_twins_loss, loss_fields=("redundancy_weight",)),
  "simclr_nt_xent": Method(simclr_nt_xent_loss, loss_fields=("temperature",)),
}
# Fields of the config that only some methods read.
_OWN_FIELDS = sorted(
  {
    field
    for method in METHODS.values()
    for field in (*method.loss_fields, *method.network_fields)
  }
)


def check(config: config_lib.Config) -> None:
  """Refuses unknown names and fields that the method would not read.

  Args:
    config: the run's config.

  Raises:
    UsageError: in one line, with the valid choices.
  """
  if config.method not in METHODS:
    raise UsageError(
      f"unknown config.method {config.method!r}; there are:"
      f" {', '.join(METHODS)}"
    )
  group = config.equivariance.group
  if group not in transformations.GROUPS:
    if group in transformations.AUGMENTATIONS:
      raise UsageError(
        f"config.equivariance.group {group} has too many elements to predict"
        " and only augments (config.views); these can be predicted:"
        f" {', '.join(transformations.GROUPS)}"
      )
    raise UsageError(
      f"unknown config.equivariance.group {group!r};"
      f" there are: {', '.join(transformations.GROUPS)}"
    )
  method = METHODS[config.method]
  for field in _OWN_FIELDS:
    needed = field in method.loss_fields + method.network_fields
    given = getattr(config, field) is not None
    if needed and not given:
      raise UsageError(f"method {config.method} needs config.{field}")
    if given and not needed:
      raise UsageError(f"method {config.method} does not read config.{field}")


def make_loss(config: config_lib.Config, axis_name: str | None) -> SslLoss:
  """The SSL loss of a config as a function of the networks' outputs.

  Args:
    config: a config that `check` has accepted.
    axis_name: mapped axis over whose devices negatives are gathered.

  Returns:
    The loss function, outputs to a local float32 scalar.
  """
  method = METHODS[config.method]
  fields = {name: getattr(config, name) for name in method.loss_fields}
  return functools.partial(method.loss, axis_name=axis_name, **fields)


def make_encoder(
  config: config_lib.Config,
  *,
  axis_name: str | None = None,
  conv_general_dilated: Callable[..., jax.Array] = lax.conv_general_dilated,
) -> nn.Module:
  """Builds the encoder alone; arguments as for `make_networks`."""
  common: dict[str, Any] = {
    "width": config.model.width,
    "conv_general_dilated": conv_general_dilated,
    "dtype": jnp.dtype(config.precision),
    "axis_name": axis_name,
  }
  if config.model.name == "photonic_cnn":
    return photonics.PhotonicCNN(**common)
  return resnet.ResNet(
    depth=config.model.depth,
    stem=config.model.stem,
    zero_init_last_norm=config.model.zero_init_last_norm,
    rematerialize=config.model.rematerialize,
    **common,
  )


def make_networks(
  config: config_lib.Config,
  *,
  num_classes: int | None = None,
  axis_name: str | None = None,
  conv_general_dilated: Callable[..., jax.Array] = lax.conv_general_dilated,
) -> Networks:
  """Builds the encoder and the heads that a config describes.

  Args:
    config: a config that `check` has accepted.
    num_classes: of the labels, for the online classifier.
    axis_name: mapped axis over which batch norm is synchronised.
    conv_general_dilated: the convolution; see `models.resnet`.

  Returns:
    The networks.
  """
  common: dict[str, Any] = {
    "dtype": jnp.dtype(config.precision),
    "axis_name": axis_name,
  }
  encoder = make_encoder(
    config, axis_name=axis_name, conv_general_dilated=conv_general_dilated
  )
  projector = heads.projector(
    config.projector.widths,
    last_norm=config.projector.last_norm,
    bias=config.projector.bias,
    **common,
  )
  predictor = None
  if config.predictor_hidden is not None:
    predictor = heads.predictor(
      config.predictor_hidden, config.projector.widths[-1], **common
    )
  head = None
  if config.equivariance.weight > 0:
    group = transformations.GROUPS[config.equivariance.group]
    head = heads.transformation_head(
      config.equivariance.hidden_widths,
      group.num_classes,
      last_hidden_relu=config.equivariance.last_hidden_relu,
      hidden_norm=config.equivariance.hidden_norm,
      **common,
    )
  classifier = None
  if config.online_classifier:
    if num_classes is None:
      raise ValueError("an online classifier needs num_classes")
    classifier = heads.classifier(num_classes, dtype=common["dtype"])
  return Networks(
    encoder=encoder,
    projector=projector,
    predictor=predictor,
    transformation_head=head,
    classifier=classifier,
  )
