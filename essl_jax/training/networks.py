"""The networks of a run: an encoder and the heads that its config asks for."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from essl_jax import config as config_lib
from essl_jax import prediction as prediction_lib
from essl_jax.models import heads, resnet
from essl_jax.photonics import network


class Outputs(NamedTuple):
  """What the networks make of one batch.

  Attributes:
    projections: of views 1 and 2, each [N, D]; empty without a projector.
    predictions: of views 1 and 2, each [N, D]; empty without a predictor.
    logits: [M, elements] of the transformed third view; None for a baseline.
    class_logits: [N, classes] of view 1; None without an online classifier.
  """

  projections: tuple[jax.Array, ...] = ()
  predictions: tuple[jax.Array, ...] = ()
  logits: jax.Array | None = None
  class_logits: jax.Array | None = None


class Networks(nn.Module):
  """Encoder and heads, with one encoder pass and its own statistics a view.

  Attributes:
    encoder: images [N, H, W, C] to features [N, F].
    projector: features to projections, for the SSL loss; None without one.
    predictor: projections to predictions (SimSiam), or None.
    transformation_head: features to scores of group elements, or None for a
      baseline.
    classifier: features to scores of classes, trained alongside, or None.
  """

  encoder: nn.Module
  projector: nn.Module | None = None
  predictor: nn.Module | None = None
  transformation_head: nn.Module | None = None
  classifier: nn.Module | None = None

  def __call__(
    self,
    view1: chex.Array | None,
    view2: chex.Array | None,
    transformed: chex.Array | None,
    partners: chex.Array | None = None,
    *,
    train: bool,
  ) -> Outputs:
    """Runs the passes in the order in which they move running statistics.

    Args:
      view1: [N, H, W, C]; not looked at without a projector.
      view2: like `view1`.
      transformed: [K N, h, w, C]; not looked at without a head for it.
      partners: of a relative prediction; see `prediction.Transformed`.
      train: batch norms use the batch's statistics and move the running ones.

    Returns:
      The outputs.
    """
    projections: tuple[jax.Array, ...] = ()
    predictions: tuple[jax.Array, ...] = ()
    logits = class_logits = None
    if self.projector is not None:
      features = [self.encoder(view, train=train) for view in (view1, view2)]
      projections = tuple(self.projector(f, train=train) for f in features)
      if self.predictor is not None:
        predictions = tuple(self.predictor(z, train=train) for z in projections)
      if self.classifier is not None:
        class_logits = self.classifier(lax.stop_gradient(features[0]))
    if self.transformation_head is not None:
      logits = self.predict_transformation(transformed, partners, train=train)
    return Outputs(projections, predictions, logits, class_logits)

  def predict_transformation(
    self,
    transformed: chex.Array | None,
    partners: chex.Array | None = None,
    *,
    train: bool,
  ) -> jax.Array:
    """Scores of group elements, [K N, elements]; arguments as above."""
    if self.transformation_head is None:
      raise ValueError("these networks have no transformation head")
    features = self.encoder(transformed, train=train)
    if partners is not None:
      features = prediction_lib.pair_features(features, partners)
    return self.transformation_head(features, train=train)


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
    return network.PhotonicCNN(**common)
  return resnet.ResNet(
    depth=config.model.depth,
    stem=config.model.stem,
    zero_init_last_norm=config.model.zero_init_last_norm,
    rematerialize=config.model.rematerialize,
    **common,
  )


def make_prediction(config: config_lib.Config) -> prediction_lib.Prediction:
  """What the transformation head of a config is asked.

  Args:
    config: of any run.

  Returns:
    The prediction.

  Raises:
    ValueError: what `config.equivariance` asks for does not exist.
  """
  settings = config.equivariance
  return prediction_lib.make(
    settings.group, heads=settings.heads, relative=settings.relative
  )


def make_networks(
  config: config_lib.Config,
  *,
  num_classes: int | None = None,
  axis_name: str | None = None,
  conv_general_dilated: Callable[..., jax.Array] = lax.conv_general_dilated,
  dot_general: Callable[..., jax.Array] = lax.dot_general,
) -> Networks:
  """Builds the encoder and the heads that a config describes.

  Args:
    config: a config that `methods.check` has accepted.
    num_classes: of the labels, for the online classifier.
    axis_name: mapped axis over which batch norm is synchronised.
    conv_general_dilated: the convolution; see `models.resnet`.
    dot_general: the heads' products; see `models.heads`.

  Returns:
    The networks.
  """
  common: dict[str, Any] = {
    "dtype": jnp.dtype(config.precision),
    "axis_name": axis_name,
    "dot_general": dot_general,
  }
  encoder = make_encoder(
    config, axis_name=axis_name, conv_general_dilated=conv_general_dilated
  )
  projector = None
  if config.method != "none":
    projector = heads.projector(
      config.projector.widths,
      last_norm=config.projector.last_norm,
      bias=config.projector.bias,
      **common,
    )
  predictor = None
  if config.predictor_hidden is not None and projector is not None:
    predictor = heads.predictor(
      config.predictor_hidden, config.projector.widths[-1], **common
    )
  head = None
  if config.equivariance.weight > 0:
    head = heads.transformation_head(
      config.equivariance.hidden_widths,
      make_prediction(config).heads,
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
