"""Losses of self-supervised learning as pure functions of arrays.

Every loss returns a float32 scalar, the mean over the examples it is given,
whatever the dtype of its inputs.

With `axis_name`, a loss sees the examples of all devices of that mapped axis
and returns the mean over the examples of *this* device. Differentiate that
local value and average the gradients over the axis (`jax.lax.pmean`): the
result is the gradient of one device that holds the global batch. Averaging
the loss inside `jax.grad` instead gives wrong gradients.
"""

import chex
import jax
from jax import lax
import jax.numpy as jnp
import optax

_NORM_EPSILON = 1e-5  # of batch norm, as in PyTorch
_EPSILON = 1e-12  # smallest norm divided by, as in PyTorch's `normalize`


def _check_pair(a: chex.Array, b: chex.Array, names: str) -> None:
  if a.ndim != 2 or a.shape != b.shape:
    raise ValueError(
      f"{names} must both be of one shape [N, D], got {a.shape} and {b.shape}"
    )


def _check_temperature(temperature: float) -> None:
  if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
    raise ValueError(f"temperature must be above 0, got {temperature}")


def unit_length(x: chex.Array) -> jax.Array:
  """Scales the rows of `x` [..., D] to length one, in float32; zeros stay."""
  x = jnp.asarray(x, jnp.float32)
  # The smaller of the two branches' gradients must stay finite at x = 0.
  squared = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * lax.rsqrt(jnp.maximum(squared, _EPSILON**2))


def _similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """Inner products [N, M], in true float32 on every kind of device."""
  return jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)


def _gather(x: jax.Array, axis_name: str | None) -> jax.Array:
  """The rows of all devices, [N * devices, D]; `x` itself without an axis."""
  if axis_name is None:
    return x
  return lax.all_gather(x, axis_name, tiled=True)


def _average(x: jax.Array, axis_name: str | None) -> jax.Array:
  """The mean over devices, each of which counts its own use of it."""
  if axis_name is None:
    return x
  mean = lax.pmean(x, axis_name)
  # Where JAX tracks what varies, the gradient would be a device's share only.
  return lax.pcast(mean, axis_name, to="varying")


def _average_for_all(x: jax.Array, axis_name: str | None) -> jax.Array:
  """`_average` of what all go on to use alike: its gradients need no sum."""
  if axis_name is None:
    return x
  return x + lax.stop_gradient(_average(x, axis_name) - x)


def _first_row(n: int, axis_name: str | None) -> jax.Array | int:
  """Where this device's n rows start among the gathered ones."""
  return 0 if axis_name is None else lax.axis_index(axis_name) * n


def info_nce(
  anchors: chex.Array,
  positives: chex.Array,
  *,
  temperature: float,
  axis_name: str | None = None,
) -> jax.Array:
  """InfoNCE in one direction, from the anchors to the positives.

  Row i of `anchors` has to find row i of `positives` among all rows of
  `positives` (of all devices): N - 1 negatives, none from the anchors' own
  view. E-SSL's CIFAR-10 recipe averages it over both directions.

  Args:
    anchors: embeddings [N, D] of one view, normalised inside.
    positives: embeddings [N, D] of the other view, normalised inside.
    temperature: what cosine similarities are divided by, above 0.
    axis_name: mapped axis over whose devices the positives are gathered.

  Returns:
    The mean loss, a float32 scalar.

  Raises:
    ValueError: the shapes differ or are not [N, D], or temperature <= 0.

  Example:
    >>> z1, z2 = jnp.eye(4), jnp.eye(4)
    >>> print(round(float(info_nce(z1, z2, temperature=0.1)), 6))
    0.000136

  Reference:
    van den Oord et al. 2018 (arXiv 1807.03748), equation 4.
  """
  _check_pair(anchors, positives, "anchors and positives")
  _check_temperature(temperature)
  n = anchors.shape[0]
  everyone = _gather(unit_length(positives), axis_name)
  logits = _similarity(unit_length(anchors), everyone) / temperature
  labels = _first_row(n, axis_name) + jnp.arange(n)
  return jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  )


def nt_xent(
  z1: chex.Array,
  z2: chex.Array,
  *,
  temperature: float,
  axis_name: str | None = None,
) -> jax.Array:
  """SimCLR's normalised temperature-scaled cross entropy.

  Each of the 2N embeddings has to find its partner among all others: one
  positive, 2N - 2 negatives (of all devices), from both views.

  Args:
    z1: embeddings [N, D] of the first view, normalised inside.
    z2: embeddings [N, D] of the second view, normalised inside.
    temperature: what cosine similarities are divided by, above 0.
    axis_name: mapped axis over whose devices both views are gathered.

  Returns:
    The mean loss over the 2N anchors, a float32 scalar.

  Raises:
    ValueError: the shapes differ or are not [N, D], or temperature <= 0.

  Example:
    >>> z = jnp.eye(4)
    >>> print(round(float(nt_xent(z, z, temperature=0.1)), 6))
    0.000273

  Reference:
    Chen et al. 2020 (arXiv 2002.05709), equation 1.
  """
  _check_pair(z1, z2, "z1 and z2")
  _check_temperature(temperature)
  n = z1.shape[0]
  views = unit_length(z1), unit_length(z2)
  own = jnp.concatenate(views)
  everyone = jnp.concatenate([_gather(z, axis_name) for z in views])
  row = _first_row(n, axis_name) + jnp.arange(n)
  half = everyone.shape[0] // 2
  selves = jnp.concatenate([row, half + row])
  partners = jnp.concatenate([half + row, row])
  logits = _similarity(own, everyone) / temperature
  is_self = selves[:, None] == jnp.arange(2 * half)[None, :]
  logits = jnp.where(is_self, -jnp.inf, logits)
  return jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(logits, partners)
  )


def negative_cosine_similarity(
  predictions: chex.Array, targets: chex.Array
) -> jax.Array:
  """SimSiam's loss: minus the cosine between predictions and fixed targets.

  No gradient flows into the targets. Needs no `axis_name`: examples do not
  see each other.

  Args:
    predictions: the predictor's outputs [N, D] for one view.
    targets: the projector's outputs [N, D] for the other view.

  Returns:
    The mean loss, a float32 scalar in [-1, 1].

  Raises:
    ValueError: the shapes differ or are not [N, D].

  Example:
    >>> print(negative_cosine_similarity(jnp.eye(3), 2 * jnp.eye(3)))
    -1.0

  Reference:
    Chen and He 2021 (arXiv 2011.10566), equations 1 and 2.
  """
  _check_pair(predictions, targets, "predictions and targets")
  targets = lax.stop_gradient(targets)
  cosine = jnp.sum(unit_length(predictions) * unit_length(targets), axis=-1)
  return -jnp.mean(cosine)


def _standardize(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Columns of `x` [N, D] at mean 0 and variance 1 over all devices."""
  x = jnp.asarray(x, jnp.float32)
  centered = x - _average(jnp.mean(x, axis=0, keepdims=True), axis_name)
  squares = jnp.mean(centered**2, axis=0, keepdims=True)
  variance = _average(squares, axis_name)
  return centered * lax.rsqrt(variance + _NORM_EPSILON)


def barlow_twins(
  z1: chex.Array,
  z2: chex.Array,
  *,
  redundancy_weight: float,
  axis_name: str | None = None,
) -> jax.Array:
  """Barlow Twins: the cross-correlation of two views should be the identity.

  Every dimension is first batch-normalised over the examples of all devices
  (biased variance, no scale and offset).

  Args:
    z1: projections [N, D] of the first view.
    z2: projections [N, D] of the second view.
    redundancy_weight: what the squared off-diagonal correlations weigh; 0.0051
      in the paper.
    axis_name: mapped axis over whose devices statistics and correlations are
      averaged. Every device then returns the same value, that of the global
      batch, and must weigh it like the others: the gradient relies on it.

  Returns:
    The loss, a float32 scalar: a sum over dimensions, not over examples.

  Raises:
    ValueError: the shapes differ or are not [N, D], or the weight is negative.

  Example:
    >>> z = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> print(round(float(barlow_twins(z, z, redundancy_weight=0.0051)), 6))
    0.0

  Reference:
    Zbontar et al. 2021 (arXiv 2103.03230), equations 1 and 2.
  """
  _check_pair(z1, z2, "z1 and z2")
  traced = isinstance(redundancy_weight, jax.core.Tracer)
  if not traced and not redundancy_weight >= 0:
    raise ValueError(
      f"redundancy_weight must be at least 0, got {redundancy_weight}"
    )
  a, b = (_standardize(z, axis_name) for z in (z1, z2))
  own = _similarity(a.T, b.T) / a.shape[0]
  correlation = _average_for_all(own, axis_name)
  diagonal = jnp.diagonal(correlation)
  on = jnp.sum((diagonal - 1) ** 2)
  off = jnp.sum(correlation**2) - jnp.sum(diagonal**2)
  return on + redundancy_weight * off


def transformation_prediction(
  logits: chex.Array, labels: chex.Array
) -> jax.Array:
  """Cross entropy of naming the group element that was applied.

  This is E-SSL's equivariance term, before its weight lambda.

  Args:
    logits: scores [N, classes] of the prediction head.
    labels: integers [N], the index of the applied element.

  Returns:
    The mean loss, a float32 scalar.

  Raises:
    ValueError: the shapes do not fit or the labels are not integers.

  Example:
    >>> logits = jnp.zeros((8, 4))
    >>> labels = jnp.arange(8) % 4
    >>> print(round(float(transformation_prediction(logits, labels)), 4))
    1.3863

  Reference:
    Dangovski et al. 2022 (arXiv 2111.00899), equation 2.
  """
  logits, labels = jnp.asarray(logits), jnp.asarray(labels)
  if logits.ndim != 2 or labels.shape != logits.shape[:1]:
    raise ValueError(
      "logits must be [N, classes] and labels [N], got"
      f" {logits.shape} and {labels.shape}"
    )
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f"labels must be integers, got {labels.dtype}")
  return jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(
      logits.astype(jnp.float32), labels
    )
  )
