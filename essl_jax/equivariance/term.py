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
  """A term that predicts embeddings of views; evaluations may use it."""

  def predicted_from(self, views: Any) -> ViewRequest:
    """The view from whose embedding those of other views are predicted.

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
    """Predicts embeddings of views from other views of the same images.

    Args:
      heads: of the term, each a function of arrays.
      embeddings: [N, D] of the views of `predicted_from`.
      drawn_from: how these were drawn; None if they were not augmented.
      drawn: how the predicted views were drawn.
      views: how the method's views are drawn.

    Returns:
      [N, D].
    """


Metrics = dict[str, jax.Array]
PAIR = ("first", "second")  # the views that every method compares


def request_pair(views: Any, **options: Any) -> list[ViewRequest]:
  """Requests the views that the method compares.

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

  The method does not depend on it. With weight 0, none of it is computed.

  Attributes:
    views: names of the views in `config.views` that the term asks for.
    section: the name of its group of fields; by default that of the class.
    needs_labels: whether `targets["label"]` holds the images' classes.
    is_aside: whether the term's loss is left out of the logged `loss`, because
      none of its gradient reaches the encoder.
    weight: lambda, the factor of the term's loss; 0 leaves the term out (the
      baseline).
    layer: the inner layer of the encoder whose features the term sees: a stage
      of a ResNet, such as `layer3`, averaged over positions; or a block of a
      ViT, such as `blocks_8`: its class token, or the mean of its patches if
      the encoder's `pool` is `mean`. By default the encoder's output.
  """

  views: ClassVar[Sequence[str]] = ()
  needs_labels: ClassVar[bool] = False
  is_aside: ClassVar[bool] = False

  weight: bounds.NonNegative = 1.0
  layer: str | None = None

  @property
  def groups(self) -> Sequence[TransformationGroup]:
    """Groups that the term predicts; views should not draw from them."""
    return ()

  @property
  def shown(self) -> Sequence[str]:
    """Names of its metrics that the progress line shows."""
    return ()

  def check(self, config: Any) -> None:
    """Raises UsageError or ValueError if the term does not fit a config."""

  def check_features(self, width: int) -> None:
    """Likewise if it does not fit features [N, width] of the encoder."""

  @abc.abstractmethod
  def requests(self, views: Any) -> list[ViewRequest]:
    """The views that the term asks for; see `Method.requests`."""

  @abc.abstractmethod
  def make_heads(self, **common: Any) -> Mapping[str, nn.Module]:
    """Its heads by name; see `Method.make_heads`."""

  def unfit_heads(self, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Heads that must not load a file's weights, though the shapes are equal.

    Args:
      metadata: of the file of weights: the fields of the run's parts by
        section, if known.

    Returns:
      The reason, by the name of the head.
    """
    del metadata
    return {}

  @abc.abstractmethod
  def forward(
    self, heads: Heads, features: Features, targets: Mapping[str, Any]
  ) -> Any:
    """Computes what the loss needs from the features.

    Args:
      heads: of `make_heads`, each a function of an array.
      features: of the requested views, by name; of `layer` if it is set.
      targets: what the views' transforms have returned, by name; and under
        `parameters`, by name, an `augment.DrawnView` of each view whose request
        has `parameters`.

    Returns:
      A tree of arrays with as many rows as the features.
    """

  @abc.abstractmethod
  def loss(
    self,
    outputs: Any,
    targets: Mapping[str, Any],
    *,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, Metrics]:
    """Computes the term's loss, without its weight.

    Args:
      outputs: what `forward` has returned, for all examples of a device.
      targets: as for `forward`.
      axis_name: mapped axis of the step.

    Returns:
      A float32 scalar, the mean over this device's examples; and further
      figures to log, float32 scalars.
    """
