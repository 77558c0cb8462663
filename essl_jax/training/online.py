"""A linear classifier of the labels, trained alongside the networks."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from essl_jax import losses
from essl_jax.augment import ViewRequest
from essl_jax.equivariance.term import Metrics, Term
from essl_jax.methods.method import Features, Heads
from essl_jax.models import heads as heads_lib


class OnlineClassifier(Term):
  """Learns the classes from view 1's features; no gradient reaches the encoder.

  Attributes:
    num_classes: of the labels.
  """

  section = "online"
  views = ("first",)
  needs_labels = True
  is_aside = True

  num_classes: int = 1

  def requests(self, views: Any) -> list[ViewRequest]:
    """The first view, as the method asks for it."""
    return [ViewRequest("first", views.first, extra=views.extra)]

  def make_heads(self, **common: Any) -> dict[str, nn.Module]:
    """One linear layer."""
    head = heads_lib.classifier(self.num_classes, dtype=common["dtype"])
    return {"classifier": head}

  def forward(
    self, heads: Heads, features: Features, targets: Mapping[str, Any]
  ) -> jax.Array:
    """Class scores [N, classes]."""
    del targets
    return heads["classifier"](lax.stop_gradient(features["first"]))

  def loss(
    self,
    outputs: Any,
    targets: Mapping[str, Any],
    *,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, Metrics]:
    """The cross entropy, and `online_top1` in percent."""
    del axis_name
    labels = targets["label"]
    hits = outputs.argmax(-1) == labels
    accuracy = {"online_top1": 100 * jnp.mean(hits)}
    return losses.transformation_prediction(outputs, labels), accuracy
