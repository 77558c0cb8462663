"""A linear layer: optimiser, fit to cached features, counting, summary."""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from essl_jax.evaluation import features as features_lib

Layer = dict[str, jax.Array]
"""`kernel` [D, C] and `bias` [C], float32."""


def fit_features(
  train_features: np.ndarray,
  train_labels: np.ndarray,
  test_features: np.ndarray,
  test_labels: np.ndarray,
  *,
  num_classes: int,
  epochs: int = 100,
  batch_size: int = 256,
  learning_rate: float = 30.0,
  momentum: float = 0.9,
  weight_decay: float = 0.0,
  repetitions: int = 1,
  seed: int = 0,
) -> dict[str, Any]:
  """Probes features that were computed once: the protocol `fast`.

  Each dimension is standardised with the training features' mean and standard
  deviation and divided by sqrt(D), so that an example's squared norm is one on
  average: the loss then has the same curvature whatever the encoder's scale,
  and one learning rate serves all. Constant dimensions become zero.

  Each epoch visits every example once, in a new order; its last batch may be
  smaller. A training set below the batch size is one batch.

  Args:
    train_features: `[N, D]`.
    train_labels: `[N]`, in `[0, num_classes)`.
    test_features: `[M, D]`.
    test_labels: `[M]`, in `[0, num_classes)`.
    num_classes: number of classes.
    epochs: passes over the training features.
    batch_size: examples per step.
    learning_rate: at the start of the cosine.
    momentum: of SGD.
    weight_decay: L2, added to the gradient.
    repetitions: probes that differ in initial weights and order.
    seed: of all of them.

  Returns:
    `linear_top1`: percent of all test examples, averaged over repetitions;
    `linear_top1_each`; `linear_top1_std`, their sample standard deviation (0
    for one); the same of `linear_top5` if there are more than five classes;
    and the protocol.

  Raises:
    ValueError: for arrays that do not fit.
    FloatingPointError: for a probe that diverges.
  """
  features_lib.check("train", train_features, train_labels, num_classes)
  features_lib.check("test", test_features, test_labels, num_classes)
  if np.shape(train_features)[1] != np.shape(test_features)[1]:
    raise ValueError(
      f"train features {np.shape(train_features)} and test features "
      f"{np.shape(test_features)} differ in width"
    )
  check_schedule(epochs, batch_size, repetitions)
  train, test = features_lib.standardise(train_features, test_features)
  labels = jnp.asarray(train_labels, jnp.int32)
  batch_size = min(batch_size, len(train))
  counts = []
  for repetition in range(repetitions):
    layer = fit(
      jax.random.key(repetition_seed(seed, repetition)),
      jnp.asarray(train),
      labels,
      learning_rate,
      momentum,
      weight_decay,
      num_classes=num_classes,
      epochs=epochs,
      batch_size=batch_size,
    )
    counts.append(count_correct(layer, test, test_labels))
  return summarise(counts, len(test), num_classes) | {
    "protocol": "fast",
    "epochs": epochs,
    "batch_size": batch_size,
    "learning_rate": learning_rate,
    "schedule": "cosine to 0 per step",
    "momentum": momentum,
    "weight_decay": weight_decay,
    "repetitions": repetitions,
    "seed": seed,
    "augmentation": "none",
    "features": "cached, standardised by the training set, over sqrt(D)",
    "num_train": len(train),
    "num_test": len(test),
  }


@functools.partial(
  jax.jit, static_argnames=("num_classes", "epochs", "batch_size")
)
def fit(
  key: jax.Array,
  features: jax.Array,
  labels: jax.Array,
  learning_rate: float,
  momentum: float,
  weight_decay: float,
  *,
  num_classes: int,
  epochs: int,
  batch_size: int,
) -> Layer:
  """Trains one layer on cached features, all epochs in one compiled loop."""
  number, width = features.shape
  steps = -(-number // batch_size)
  optimizer = sgd(learning_rate, momentum, weight_decay, epochs * steps)
  weights_key, order_key = jax.random.split(key)
  layer = initial_layer(weights_key, width, num_classes)

  def step(carry: tuple[Layer, Any], rows: jax.Array) -> tuple[Any, None]:
    # Rows of -1 pad the last batch of an epoch.
    return update(
      *carry, optimizer, features[rows], labels[rows], rows >= 0
    ), None

  def epoch(carry: tuple[Layer, Any], index: jax.Array) -> tuple[Any, None]:
    order = jax.random.permutation(jax.random.fold_in(order_key, index), number)
    order = jnp.pad(order, (0, steps * batch_size - number), constant_values=-1)
    return jax.lax.scan(step, carry, order.reshape(steps, batch_size))

  carry = (layer, optimizer.init(layer))
  (layer, _), _ = jax.lax.scan(epoch, carry, jnp.arange(epochs))
  return layer


def sgd(
  learning_rate: float, momentum: float, weight_decay: float, steps: int
) -> optax.GradientTransformation:
  """PyTorch's SGD with L2 decay, under a cosine from step 0 to `steps`."""
  schedule = optax.cosine_decay_schedule(1.0, steps)
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.trace(momentum),
    optax.scale_by_schedule(lambda step: -learning_rate * schedule(step)),
  )


def initial_layer(key: jax.Array, width: int, num_classes: int) -> Layer:
  """PyTorch's default: all uniform within 1 / sqrt(width)."""
  keys = jax.random.split(key)
  bound = width**-0.5
  draw = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
  return {
    "kernel": draw(keys[0], (width, num_classes)),
    "bias": draw(keys[1], (num_classes,)),
  }


def _logits(layer: Layer, inputs: jax.Array) -> jax.Array:
  """Linear map of `[N, D]` to `[N, C]`, in full float32 on every backend."""
  precision = jax.lax.Precision.HIGHEST
  product = jnp.matmul(inputs, layer["kernel"], precision=precision)
  return product + layer["bias"][None]


def update(
  layer: Layer,
  momenta: Any,
  optimizer: optax.GradientTransformation,
  inputs: jax.Array,
  labels: jax.Array,
  mask: jax.Array | None = None,
) -> tuple[Layer, Any]:
  """One step on the mean loss over the rows that `mask` keeps."""

  def loss(layer: Layer) -> jax.Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(
      _logits(layer, inputs), labels
    )
    return jnp.mean(losses, where=mask)

  updates, momenta = optimizer.update(jax.grad(loss)(layer), momenta, layer)
  return optax.apply_updates(layer, updates), momenta


def count_correct(
  layer: Layer, features: np.ndarray, labels: np.ndarray
) -> tuple[int, int]:
  """Test examples whose class is ranked first, and among the first five."""
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(layer)):
    raise FloatingPointError(
      "the linear probe diverged: lower config.probe.learning_rate"
    )
  # On the default device again, from all devices of all processes.
  local = {name: jnp.asarray(np.asarray(x)) for name, x in layer.items()}
  answers = jnp.asarray(labels, jnp.int32)
  ranks = np.asarray(_ranks(local, jnp.asarray(features), answers))
  return int((ranks < 1).sum()), int((ranks < 5).sum())


@jax.jit
def _ranks(layer: Layer, features: jax.Array, labels: jax.Array) -> jax.Array:
  """Place of the true class, 0 the best; of equals the lower class wins."""
  logits = _logits(layer, features)
  own = jnp.take_along_axis(logits, labels[:, None], axis=1)
  lower = jnp.arange(logits.shape[1])[None] < labels[:, None]
  return jnp.sum((logits > own) | ((logits == own) & lower), axis=1)


def summarise(
  counts: Sequence[tuple[int, int]], number: int, num_classes: int
) -> dict[str, Any]:
  """Percent of `number` for every repetition, their mean and spread."""
  figures: dict[str, Any] = {}
  for column, name in enumerate(("linear_top1", "linear_top5")):
    if name == "linear_top5" and num_classes <= 5:
      continue
    each = [100.0 * count[column] / number for count in counts]
    figures[name] = float(np.mean(each))
    figures[f"{name}_std"] = float(np.std(each, ddof=1)) if each[1:] else 0.0
    figures[f"{name}_each"] = each
  return figures


def repetition_seed(seed: int, repetition: int) -> int:
  """Seeds in [0, 2^31) that no two pairs of arguments are likely to share."""
  sequence = np.random.SeedSequence([seed, repetition])
  return int(sequence.generate_state(1)[0] >> 1)


def check_schedule(epochs: int, batch_size: int, repetitions: int) -> None:
  """Raises ValueError for a schedule without steps."""
  for name, value in (
    ("epochs", epochs),
    ("batch_size", batch_size),
    ("repetitions", repetitions),
  ):
    if value < 1:
      raise ValueError(f"{name}={value} must be positive")
