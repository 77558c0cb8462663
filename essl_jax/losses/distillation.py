"""DINO's loss: a student network learns a teacher's distributions."""

import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs
from essl_jax.losses import common

_TEACHERS = 2  # crops that the teacher sees


@inputs.any_sharding(by_example=False)
def dino(
  student: chex.Array,
  teacher: chex.Array,
  *,
  center: chex.Array,
  student_temperature: jax.typing.ArrayLike,
  teacher_temperature: jax.typing.ArrayLike,
) -> jax.Array:
  """DINO's loss: the student predicts the teacher's output for other crops.

  Averages the cross entropy between the teacher's distribution for each of two
  crops and the student's for every other crop of the same image. No gradient
  flows into `teacher` and `center`. Needs no `axis_name`: examples meet only in
  the center.

  Args:
    student: scores [S N, K] of S >= 2 crops of N images: the first crop of all
      images, then the second, ...
    teacher: scores [2 N, K] of the first two of these crops.
    center: [K] or [1, K], subtracted from the teacher's scores; use its value
      from before the step, see `update_center`.
    student_temperature: divides the student's scores, above 0.
    teacher_temperature: divides the teacher's scores, above 0; lower values
      sharpen.

  Returns:
    The mean loss, a float32 scalar.

  Raises:
    ValueError: the shapes do not match, or a temperature is not above 0.

  Example:
    >>> scores = jnp.array([[9.0, 0.0], [9.0, 0.0]])
    >>> options = {"student_temperature": 1.0, "teacher_temperature": 0.1}
    >>> loss = dino(scores, scores, center=jnp.zeros(2), **options)
    >>> print(round(float(loss), 6))
    0.000123

  Reference:
    Caron et al. 2021 (arXiv 2104.14294), equation 3 and algorithm 1.
  """
  crops = _check(student, teacher)
  student_temperature = common.as_number(
    "student_temperature", student_temperature, positive=True
  )
  teacher_temperature = common.as_number(
    "teacher_temperature", teacher_temperature, positive=True
  )
  centered = common.as_float32(teacher) - _as_row(center, np.shape(teacher)[1])
  chances = jax.nn.softmax(centered / teacher_temperature, axis=-1)
  chances = lax.stop_gradient(chances)
  logs = jax.nn.log_softmax(common.as_float32(student) / student_temperature)
  rows = np.shape(teacher)[0] // _TEACHERS
  entropies = -common.similarity(
    chances.reshape(_TEACHERS, -1), logs.reshape(crops, -1)
  )
  is_other = jnp.arange(_TEACHERS)[:, None] != jnp.arange(crops)[None, :]
  pairs = _TEACHERS * (crops - 1)
  return jnp.sum(jnp.where(is_other, entropies, 0)) / (pairs * rows)


def _check(student: chex.Array, teacher: chex.Array) -> int:
  """Returns how many crops the student sees; ValueError for wrong shapes."""
  shapes = np.shape(student), np.shape(teacher)
  fit = all(len(shape) == 2 and 0 not in shape for shape in shapes)
  if fit:
    (seen, width), (taught, of_teacher) = shapes
    rows, rest = divmod(taught, _TEACHERS)
    fit = not rest and width == of_teacher > 1 and seen % rows == 0
  if not fit or seen < taught:
    raise ValueError(
      "student must be [S N, K] and teacher [2 N, K] for S >= 2 crops of N"
      f" images and K >= 2 prototypes, got {shapes[0]} and {shapes[1]}"
    )
  return seen // rows


def _as_row(center: chex.Array, width: int) -> jax.Array:
  """Returns the center as [1, K] without a gradient, or raises ValueError."""
  if np.shape(center) not in ((width,), (1, width)):
    raise ValueError(
      f"center must be [{width}] or [1, {width}], as wide as the scores, got"
      f" {np.shape(center)}"
    )
  return lax.stop_gradient(common.as_float32(center)).reshape(1, width)


@inputs.any_sharding(by_example=False)
def update_center(
  center: chex.Array,
  teacher: chex.Array,
  *,
  momentum: jax.typing.ArrayLike,
  axis_name: str | None = None,
) -> jax.Array:
  """Moves DINO's center towards the mean of a teacher's scores.

  Args:
    center: [K] or [1, K].
    teacher: the teacher's scores [M, K] for all of its crops in this step.
    momentum: fraction of the old center that is kept, in [0, 1].
    axis_name: mapped axis over whose devices the scores are averaged.

  Returns:
    The new center, float32, of the same shape.

  Raises:
    ValueError: the shapes do not match, or the momentum is out of range.

  Example:
    >>> scores = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    >>> print(update_center(jnp.zeros(2), scores, momentum=0.5))
    [0.5 1. ]

  Reference:
    Caron et al. 2021 (arXiv 2104.14294), equation 4.
  """
  shape = np.shape(teacher)
  if len(shape) != 2 or 0 in shape:
    raise ValueError(f"teacher must be [M, K], not empty, got {shape}")
  momentum = common.as_number("momentum", momentum, positive=False)
  inputs.check_range("momentum", momentum, 0, 1)
  before = _as_row(center, shape[1])
  scores = lax.stop_gradient(common.as_float32(teacher))
  mean = jnp.mean(scores, axis=0, keepdims=True)
  if axis_name is not None:
    mean = lax.pmean(mean, axis_name)
  moved = momentum * before + (1 - momentum) * mean
  return moved.reshape(np.shape(center))
