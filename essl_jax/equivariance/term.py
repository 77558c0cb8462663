"""The base class of equivariance terms."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
import jax

from essl_jax.augment import DrawnView, View, ViewRequest
from essl_jax.config import bounds
from essl_jax.config.parts import Part
from essl_jax.methods.method import Features, Heads
from essl_jax.transformations import TransformationGroup


@runtime_checkable
class Predictor(Protocol):
  """A term that predicts embeddings of views, which evaluations may ask."""

  def predicted_from(self, views: Any) -> ViewRequest:
    """The view of an image from which those of others are predicted.

    Args:
      views: `config.views`.
    """

  def embed(self, heads: Heads, features: jax.Array) -> jax.Array:
    """The embeddings [N, D] of features [N, F] of any view."""

  def predict(
    self,
    heads: Heads,
    embeddings: jax.Array,
    drawn_from: DrawnView | None,
    drawn: DrawnView,
    views: Sequence[View],
  ) -> jax.Array:
    """The embeddings of views, from those of other views of the same images.

    Args:
      heads: of the term, each a function of arrays.
      embeddings: [N, D] of the views of `predicted_from`.
      drawn_from: how these were drawn; None where they were not.
      drawn: how the predicted views were drawn.
      views: how the method's views are drawn.

    Returns:
      [N, D].
    """


Metrics = dict[str, jax.Array]
PAIR = ("first", "second")  # the views that every method compares


def request_pair(views: Any, **options: Any) -> list[ViewRequest]:
  """Requests of the views that the method compares.

  Args:
    views: `config.views`.
    **options: more fields of the requests.
  """
  return [
    ViewRequest(name, getattr(views, name), extra=views.extra, **options)
    for name in PAIR
  ]


class Term(Part):
  """A loss that is added to the method's; its fields are its config.

  The method does not know of it. With weight 0 nothing of it is computed.

  Attributes:
    views: names of the views in `config.views` that it asks for.
    section: the name of its group of fields, of the class if not stated.
    needs_labels: whether `targets["label"]` holds the images' classes.
    is_aside: whether its loss is left out of the `loss` that is logged, since
      no gradient of it reaches the encoder.
    weight: lambda, what the term's loss is multiplied by; 0 leaves it out (the
      baseline).
    layer: the inner layer of the encoder whose features the term sees: a stage
      of a ResNet, such as `layer3`, whose mean over positions is taken; or a
      block of a ViT, such as `blocks_8`, whose class token is taken, or the
      mean of its patches where the encoder's `pool` is `mean`. By default it is
      the encoder's output.
  """

  views: ClassVar[Sequence[str]] = ()
  needs_labels: ClassVar[bool] = False
  is_aside: ClassVar[bool] = False

  weight: bounds.NonNegative = 1.0
  layer: str | None = None

  @property
  def groups(self) -> Sequence[TransformationGroup]:
    """Groups that features have to tell: views should not draw from them."""
    return ()

  @property
  def shown(self) -> Sequence[str]:
    """Names of its metrics that the progress line shows."""
    return ()

  def check(self, config: Any) -> None:
    """Raises UsageError or ValueError for a config that it does not fit."""

  def check_features(self, width: int) -> None:
    """Likewise, for features [N, width] of the encoder."""

  @abc.abstractmethod
  def requests(self, views: Any) -> list[ViewRequest]:
    """The views that it asks for; see `Method.requests`."""

  @abc.abstractmethod
  def make_heads(self, **common: Any) -> Mapping[str, nn.Module]:
    """Its heads by name; see `Method.make_heads`."""

  def unfit_heads(self, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Heads that do not start from a file's, though their shapes are equal.

    Args:
      metadata: of the file of weights: the fields of the run's parts by their
        section, where it is known.

    Returns:
      Why not, by the name of the head.
    """
    del metadata
    return {}

  @abc.abstractmethod
  def forward(
    self, heads: Heads, features: Features, targets: Mapping[str, Any]
  ) -> Any:
    """What the loss needs of the features.

    Args:
      heads: of `make_heads`, each a function of an array.
      features: of the views that were asked for, by name; of `layer`, where
        one is set.
      targets: what the views' transforms have returned, by name; and under
        `parameters`, by name, an `augment.DrawnView` of each view whose request
        has `parameters`.

    Returns:
      A tree of arrays that lead with as many rows as the features.
    """

  @abc.abstractmethod
  def loss(
    self,
    outputs: Any,
    targets: Mapping[str, Any],
    *,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, Metrics]:
    """The term's loss, before its weight.

    Args:
      outputs: what `forward` has returned, of all examples of a device.
      targets: as for `forward`.
      axis_name: mapped axis of the step.

    Returns:
      A float32 scalar, the mean over this device's examples, and figures to
      log beside it, float32 scalars.
    """
