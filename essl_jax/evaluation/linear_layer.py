"""A linear layer: optimiser, fit to cached features, counting, summary."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation import fitting
from essl_jax.evaluation.recipe import Recipe

Layer = dict[str, jax.Array]
"""`kernel` [D, C] and `bias` [C], float32."""


def fit_features(
  train_features: np.ndarray,
  train_labels: np.ndarray,
  test_features: np.ndarray,
  test_labels: np.ndarray,
  *,
  num_classes: int,
  recipe: Recipe,
  seed: int = 0,
) -> dict[str, Any]:
  """Probes cached features: the protocol `fast`.

  Each dimension is standardised with the training features' mean and standard
  deviation and divided by sqrt(D), so the squared norm of an example is 1 on
  average. The loss then has the same curvature for every scale of the encoder,
  and one learning rate works for all. Constant dimensions become zero.

  Each epoch visits every example once, in a new order; its last batch may be
  smaller. A training set smaller than the batch size is one batch.

  Args:
    train_features: `[N, D]`.
    train_labels: `[N]`, in `[0, num_classes)`.
    test_features: `[M, D]`.
    test_labels: `[M]`, in `[0, num_classes)`.
    num_classes: number of classes.
    recipe: how to train.
    seed: seed of all repetitions.

  Returns:
    The figures of `summarise` and the protocol.

  Raises:
    ValueError: the arrays do not fit.
    FloatingPointError: the probe diverges.
  """
  features_lib.check("train", train_features, train_labels, num_classes)
  features_lib.check("test", test_features, test_labels, num_classes)
  if np.shape(train_features)[1] != np.shape(test_features)[1]:
    raise ValueError(
      f"train features {np.shape(train_features)} and test features "
      f"{np.shape(test_features)} differ in width"
    )
  train, test = features_lib.standardise(train_features, test_features)
  arrays = jnp.asarray(train), jnp.asarray(train_labels, jnp.int32)
  size = min(recipe.batch_size, len(train))
  recipe = dataclasses.replace(recipe, batch_size=size)
  counts = []
  for repetition in range(recipe.repetitions):
    key = jax.random.key(fitting.repetition_seed(seed, repetition))
    layer = fit(key, *arrays, recipe=recipe, num_classes=num_classes)
    counts.append(count_correct(layer, test, test_labels))
  return (
    summarise(counts, len(test), num_classes)
    | {"protocol": "fast", "seed": seed, "augmentation": "none"}
    | recipe.describe()
    | {
      "features": "cached, standardised by the training set, over sqrt(D)",
      "num_train": len(train),
      "num_test": len(test),
    }
  )


@functools.partial(jax.jit, static_argnames=("recipe", "num_classes"))
def fit(
  key: jax.Array,
  features: jax.Array,
  labels: jax.Array,
  *,
  recipe: Recipe,
  num_classes: int,
) -> Layer:
  """Trains one layer on cached features, all epochs in one compiled loop."""
  number, width = features.shape
  steps = -(-number // recipe.batch_size)
  weights_key, order_key = jax.random.split(key)

  def loss_of(layer: Layer, _: None, rows: jax.Array) -> tuple[Any, None]:
    # Rows of -1 pad the last batch of an epoch.
    return loss(layer, features[rows], labels[rows], rows >= 0), None

  problem = fitting.Problem(loss_of, recipe.make_optimizer(steps))
  step = fitting.make_step(problem)

  def epoch(state: fitting.State, index: jax.Array) -> tuple[Any, jax.Array]:
    order = jax.random.permutation(jax.random.fold_in(order_key, index), number)
    padding = (0, steps * recipe.batch_size - number)
    order = jnp.pad(order, padding, constant_values=-1)
    return jax.lax.scan(step, state, order.reshape(steps, recipe.batch_size))

  layer = initial_layer(weights_key, width, num_classes, recipe.initial_std)
  state = problem.begin(key, layer)
  state, _ = jax.lax.scan(epoch, state, jnp.arange(recipe.epochs))
  return state.params


def initial_layer(
  key: jax.Array, width: int, num_classes: int, std: float | None = None
) -> Layer:
  """Makes an initial layer.

  Args:
    key: random key.
    width: width of the features.
    num_classes: number of classes.
    std: standard deviation of normal weights, with biases of 0; None is
      PyTorch's default, all uniform within 1 / sqrt(width).

  Returns:
    The layer.
  """
  keys = jax.random.split(key)
  shape = (width, num_classes)
  if std is not None:
    return {
      "kernel": std * jax.random.normal(keys[0], shape, jnp.float32),
      "bias": jnp.zeros(num_classes, jnp.float32),
    }
  bound = width**-0.5
  draw = functools.partial(
    jax.random.uniform, dtype=jnp.float32, minval=-bound, maxval=bound
  )
  return {"kernel": draw(keys[0], shape), "bias": draw(keys[1], shape[1:])}


def _logits(layer: Layer, inputs: jax.Array) -> jax.Array:
  """Linear map of `[N, D]` to `[N, C]`, in full float32 on every backend."""
  precision = jax.lax.Precision.HIGHEST
  product = jnp.matmul(inputs, layer["kernel"], precision=precision)
  return product + layer["bias"][None]


def loss(
  layer: Layer,
  inputs: jax.Array,
  labels: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Mean softmax cross entropy over the rows that `mask` keeps."""
  losses = optax.softmax_cross_entropy_with_integer_labels(
    _logits(layer, inputs), labels
  )
  return jnp.mean(losses, where=mask)


def count_correct(
  layer: Layer, features: np.ndarray, labels: np.ndarray
) -> tuple[int, int]:
  """Numbers of test examples with the class ranked first, and in the top 5."""
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(layer)):
    raise FloatingPointError(
      "the linear classifier diverged: lower its learning rate"
    )
  # Copy from all devices of all processes to the default device.
  local = {name: jnp.asarray(np.asarray(x)) for name, x in layer.items()}
  answers = jnp.asarray(labels, jnp.int32)
  ranks = np.asarray(_ranks(local, jnp.asarray(features), answers))
  return int((ranks < 1).sum()), int((ranks < 5).sum())


@jax.jit
def _ranks(layer: Layer, features: jax.Array, labels: jax.Array) -> jax.Array:
  """Rank of the true class, 0 for the best; the lower class wins ties."""
  logits = _logits(layer, features)
  own = jnp.take_along_axis(logits, labels[:, None], axis=1)
  lower = jnp.arange(logits.shape[1])[None] < labels[:, None]
  return jnp.sum((logits > own) | ((logits == own) & lower), axis=1)


def summarise(
  counts: Sequence[tuple[int, int]],
  number: int,
  num_classes: int,
  prefix: str = "linear",
) -> dict[str, Any]:
  """Accuracies in percent, exact over all test images.

  Args:
    counts: correct answers of each repetition, from `count_correct`.
    number: number of test images.
    num_classes: number of classes.
    prefix: prefix of the figures' names.

  Returns:
    `linear_top1`, averaged over repetitions; `linear_top1_each`;
    `linear_top1_std`, their sample standard deviation (0 for one repetition);
    and the same for `linear_top5` if there are more than five classes.
  """
  figures: dict[str, Any] = {}
  for column, name in enumerate((f"{prefix}_top1", f"{prefix}_top5")):
    if column and num_classes <= 5:
      continue
    each = [100.0 * x[column] / number for x in counts]
    figures |= fitting.spread(name, each)
  return figures
