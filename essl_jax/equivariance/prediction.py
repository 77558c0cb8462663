"""E-SSL's term: predicts which element of a group was applied to a view."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax.augment import ViewRequest
from essl_jax.config import bounds
from essl_jax.equivariance import elements
from essl_jax.equivariance.term import Metrics, Term
from essl_jax.errors import UsageError
from essl_jax.methods.method import Features, Heads
from essl_jax.models import heads as heads_lib
from essl_jax.transformations import TransformationGroup


class Prediction(Term):
  """Predicts the element that was applied to a third view; cross entropy.

  For a second prediction, write a subclass with its own section, `view_name`
  and `head_name`; its view may differ.

  Attributes:
    view_name: name of the view to which elements are applied.
    head_name: name of the head.
    weight: weight of this loss (lambda in the paper); 0 leaves out the third
      view and the head (the baseline).
    group: transformation group to predict: a name in `transformations.GROUPS`,
      a product such as `rotation*horizontal_flip`, or `module:NAME` of your
      own.
    all_elements: apply every element of the group to every image; if False, one
      random element to each.
    heads: `joint`: one head for all combinations of a product; `each`: every
      factor has a head, and their losses are added.
    relative: predict, from the features of two copies of an image, which
      element leads from the first to the second; for data that contain rotated
      images already. Needs a group whose elements can be undone.
    hidden_widths: widths of the head's hidden layers; `()` makes it linear.
    hidden_norm: norm after each hidden layer: `layer` or `batch`.
    last_hidden_relu: whether a ReLU follows the last hidden norm.

  Reference:
    Dangovski et al. 2022 (arXiv 2111.00899), equation 2.
  """

  section = "equivariance"
  views = ("third",)
  view_name: ClassVar[str] = "transformed"
  head_name: ClassVar[str] = "transformation_head"

  weight: bounds.NonNegative = 0.4
  group: str = "rotation"
  all_elements: bool = True
  heads: Literal["joint", "each"] = "joint"
  relative: bool = False
  hidden_widths: bounds.HiddenWidths = (2048, 2048)
  hidden_norm: Literal["layer", "batch"] = "layer"
  last_hidden_relu: bool = True

  @functools.cached_property
  def question(self) -> elements.ElementPrediction:
    """What the head predicts; raises ValueError if the fields do not fit."""
    return elements.make(self.group, heads=self.heads, relative=self.relative)

  @property
  def groups(self) -> Sequence[TransformationGroup]:
    """The group, or the factors of a product."""
    return self.question.group.factors or (self.question.group,)

  @property
  def shown(self) -> Sequence[str]:
    """The accuracy."""
    return (f"{self.section}_accuracy",)

  def check(self, config: Any) -> None:
    """Refuses groups that cannot be predicted, and heads that cannot learn."""
    del config
    if self.hidden_norm == "layer" and 1 in self.hidden_widths:
      raise UsageError(
        f"config.{self.section}.hidden_widths must be 2 or more with layer"
        " norms, which turn one value into a constant; got"
        f" {self.hidden_widths}"
      )
    try:
      _ = self.question
    except ValueError as error:
      raise UsageError(f"config.{self.section}: {error}") from error

  def requests(self, views: Any) -> list[ViewRequest]:
    """The third view under all elements, or under a random one."""
    view, transform = getattr(views, self.views[0]), self.question.all_elements
    if not self.all_elements:
      transform = self.question.random_elements
    return [ViewRequest(self.view_name, view, transform=transform)]

  def make_heads(self, **common: Any) -> dict[str, nn.Module]:
    """The head, or one for each factor of a product."""
    head = heads_lib.transformation_head(
      self.hidden_widths,
      self.question.heads,
      last_hidden_relu=self.last_hidden_relu,
      hidden_norm=self.hidden_norm,
      **common,
    )
    return {self.head_name: head}

  def unfit_heads(self, metadata: Mapping[str, Any]) -> dict[str, str]:
    """The head, if the file's head predicts something else."""
    there = metadata.get(self.section)
    if there is None:
      return {}
    if not isinstance(there, Mapping):  # damaged
      there = {}
    # Older files have no other form.
    asked = [there.get("group"), there.get("heads", "joint")]
    asked.append(there.get("relative", False))
    if asked == [self.group, self.heads, self.relative]:
      return {}
    return {self.head_name: f"for {there.get('group')} in the file"}

  def forward(
    self, heads: Heads, features: Features, targets: Mapping[str, Any]
  ) -> jax.Array:
    """Scores of group elements, [K N, elements]."""
    found = features[self.view_name]
    if self.relative:
      partners = targets[self.view_name]["partners"]
      found = elements.pair_features(found, partners)
    return heads[self.head_name](found)

  def loss(
    self,
    outputs: Any,
    targets: Mapping[str, Any],
    *,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, Metrics]:
    """The cross entropy, and `<section>_accuracy` in percent."""
    del axis_name
    labels = targets[self.view_name]["labels"]
    hits = self.question.classify(outputs) == labels
    accuracy = {f"{self.section}_accuracy": 100 * jnp.mean(hits)}
    return self.question.loss(outputs, labels), accuracy


PART = Prediction
