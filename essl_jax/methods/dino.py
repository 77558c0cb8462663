"""DINO: a student predicts its moving average, the teacher, on other crops."""

from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from essl_jax import losses
from essl_jax.config import bounds
from essl_jax.methods.method import Features, Heads, Outputs, Projector
from essl_jax.methods.two_views import WithTarget
from essl_jax.models.heads import uniform_fan_in


class Prototypes(nn.Module):
  """Cosines between projections and prototypes, the columns of `kernel`.

  Attributes:
    count: number of prototypes, K.
    dtype: dtype of the product's inputs; sums and the result are float32.
    dot_general: replacement for `jax.lax.dot_general`.

  Reference:
    Caron et al. 2021 (arXiv 2104.14294), appendix C, "Projection head".
  """

  count: int
  dtype: Any = jnp.float32
  dot_general: Callable[..., jax.Array] = lax.dot_general

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises projections [N, D] and maps them to cosines [N, K]."""
    width = x.shape[-1]
    shape = (width, self.count)
    kernel = self.param("kernel", uniform_fan_in(width), shape, jnp.float32)
    directions = losses.unit_length(kernel.T).T
    return self.dot_general(
      losses.unit_length(x).astype(self.dtype),
      directions.astype(self.dtype),
      (((1,), (0,)), ((), ())),
      preferred_element_type=(
        None if self.dtype == jnp.float32 else jnp.float32
      ),
    )


class DINO(WithTarget):
  """Self-distillation with the teacher's centred, sharpened distributions.

  From every view, the student predicts what the teacher (the target network)
  outputs for the other full views.

  Attributes:
    prototypes: number of prototypes, unit vectors that projections are compared
      with.
    freeze_epochs: number of epochs at the start that keep the prototypes fixed.
    student_temperature: divisor of the student's scores.
    teacher_temperature: divisor of the teacher's scores after its warm-up.
    first_teacher_temperature: divisor of the teacher's scores in the first
      epoch.
    teacher_warmup_epochs: number of epochs in which the teacher's temperature
      moves to its final value, in equal steps; 0 starts with the final value.
    center_momentum: fraction of the center that a step keeps.

  Reference:
    Caron et al. 2021 (arXiv 2104.14294), algorithm 1 and section 3.
  """

  target_heads = ("projector", "prototypes")
  evaluated_network = "target"

  projector: Projector = Projector((2048, 2048, 256), "none", bias=True)
  target_decay: bounds.Unit = 0.996
  prototypes: Annotated[int, bounds.AtLeast(2), bounds.AtMost(10**6)] = 4096
  freeze_epochs: bounds.Whole = 1
  student_temperature: bounds.Positive = 0.1
  teacher_temperature: bounds.Positive = 0.07
  first_teacher_temperature: bounds.Positive = 0.04
  teacher_warmup_epochs: bounds.Whole = 30
  center_momentum: bounds.Unit = 0.9

  def make_heads(self, **common: Any) -> dict[str, Any]:
    """Makes projector and prototypes."""
    common_to_both = {k: common[k] for k in ("dtype", "dot_general")}
    prototypes = Prototypes(self.prototypes, **common_to_both)
    return super().make_heads(**common) | {"prototypes": prototypes}

  def frozen_heads(self) -> dict[str, int]:
    """Freezes the prototypes for the first `freeze_epochs`."""
    return {"prototypes": self.freeze_epochs}

  def initial_extra(self, params: Any) -> dict[str, jax.Array]:
    """Returns the center of the teacher's scores, [1, prototypes]."""
    del params
    return {"center": jnp.zeros((1, self.prototypes), jnp.float32)}

  def forward(self, heads: Heads, features: Features) -> dict[str, Any]:
    """Returns `projections` per view, and `scores` [views N, prototypes]."""
    found = super().forward(heads, features)
    stacked = jnp.concatenate(found["projections"])
    return found | {"scores": heads["prototypes"](stacked)}

  def teacher_temperature_of(self, epoch: jax.typing.ArrayLike) -> jax.Array:
    """Returns the teacher's temperature in an epoch from 0 on, float32."""
    first, last = self.first_teacher_temperature, self.teacher_temperature
    warmup = self.teacher_warmup_epochs
    epoch = jnp.asarray(epoch, jnp.float32)
    warm = first + (last - first) * epoch / max(warmup - 1, 1)
    return jnp.where(epoch < warmup, warm, jnp.float32(last))

  def loss(
    self, outputs: Outputs, *, axis_name: str | None = None
  ) -> jax.Array:
    """See `losses.dino`; uses the center from before the step."""
    del axis_name
    return losses.dino(
      outputs.own["scores"],
      outputs.target["scores"],
      center=outputs.extra["center"],
      student_temperature=self.student_temperature,
      teacher_temperature=self.teacher_temperature_of(outputs.epoch),
    )

  def after_update(
    self, params: Any, outputs: Outputs, *, axis_name: str | None = None
  ) -> tuple[Any, dict[str, jax.Array]]:
    """Moves the center; see `losses.update_center`."""
    center = losses.update_center(
      outputs.extra["center"],
      outputs.target["scores"],
      momentum=self.center_momentum,
      axis_name=axis_name,
    )
    return params, {"center": center}


PART = DINO
