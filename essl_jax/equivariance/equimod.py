"""EquiMod's term: embeddings are displaced as their images were augmented."""

import chex
import jax

from essl_jax import inputs, losses


@inputs.any_sharding(by_example=False)
def loss(
  embeddings: chex.Array,
  predicted: chex.Array,
  *,
  temperature: jax.typing.ArrayLike,
  axis_name: str | None = None,
) -> jax.Array:
  """NT-Xent between augmented views and what their parameters predict.

  Each embedding has to find its prediction, and each prediction its embedding,
  among all others: 2M - 2 negatives. The gradient flows into both.

  Args:
    embeddings: [M, D] of augmented views, those of both views stacked,
      normalised inside.
    predicted: [M, D], each the displaced embedding of the plain image,
      likewise.
    temperature: what cosine similarities are divided by, above 0; 0.2 in the
      paper.
    axis_name: mapped axis over whose devices both are gathered.

  Returns:
    The mean loss, a float32 scalar.

  Raises:
    ValueError: the shapes differ or are not [M, D], all devices together have
      one row, or the temperature is not a number above 0.

  Example:
    >>> z = jax.numpy.eye(4)
    >>> print(round(float(loss(z, z, temperature=0.2)), 4))
    0.0396

  Reference:
    Devillers and Lefort 2023 (arXiv 2211.01244), section 3.2.
  """
  return losses.nt_xent(
    embeddings, predicted, temperature=temperature, axis_name=axis_name
  )
