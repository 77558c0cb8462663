"""Linear classification on a frozen encoder: two protocols.

`paper` trains on freshly augmented images that pass the encoder at every step,
`fast` on features computed once. Both minimise the softmax cross entropy of
one linear layer by SGD with momentum, its learning rate falling to zero along
a cosine per step, and count the correct answers over all test images.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from essl_jax import augment
from essl_jax.data import Source
from essl_jax.errors import UsageError
from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation.features import Encode

Layer = dict[str, jax.Array]
"""`kernel` [D, C] and `bias` [C], float32."""

PROTOCOLS = ("paper", "fast", "none")


def run(
  encode: Encode,
  variables: Any,
  source: Source,
  *,
  protocol: str,
  mean: tuple[float, float, float],
  std: tuple[float, float, float],
  image_size: int,
  resize: tuple[int, int] | None = None,
  train: tuple[np.ndarray, np.ndarray] | None = None,
  test: tuple[np.ndarray, np.ndarray] | None = None,
  place: Callable[[Any], Any] = jnp.asarray,
  progress: Callable[[int, int], None] | None = None,
  batch_size: int = 256,
  **options: Any,
) -> dict[str, Any]:
  """Runs a probe and asserts that it left the encoder as it was.

  Args:
    encode: the frozen encoder, on normalised images.
    variables: its variables.
    source: with the splits `train` and `test`.
    protocol: `paper` (`run_paper`), `fast` (`fit_features`) or `none`.
    mean: of the channels, in [0, 1].
    std: of the channels.
    image_size: side of the encoder's images, for `paper`.
    resize: as `features.extract`, for `fast`.
    train: features and labels if already extracted, for `fast`.
    test: likewise of the test split.
    place: puts a host array on the devices, see `features.extract`.
    progress: see `run_paper`.
    batch_size: images per step.
    **options: the other arguments of the protocol's function.

  Returns:
    The figures of the protocol's function; of `none`, its name alone.

  Raises:
    UsageError: for an unknown protocol.
    RuntimeError: when the encoder's variables changed.
  """
  if protocol not in PROTOCOLS:
    raise UsageError(
      f"probe.protocol {protocol!r} is unknown; use one of "
      f"{', '.join(PROTOCOLS)}"
    )
  if protocol == "none":
    return {"protocol": "none"}
  before = features_lib.fingerprint(variables)
  common: dict[str, Any] = {
    "mean": mean,
    "std": std,
    "batch_size": batch_size,
    "place": place,
  }
  if protocol == "paper":
    figures = run_paper(
      encode,
      variables,
      source,
      image_size=image_size,
      progress=progress,
      **common,
      **options,
    )
  else:

    def extract(split: str) -> tuple[np.ndarray, np.ndarray]:
      return features_lib.extract(
        encode, variables, source, split, resize=resize, **common
      )

    figures = fit_features(
      *(extract("train") if train is None else train),
      *(extract("test") if test is None else test),
      num_classes=source.num_classes,
      batch_size=batch_size,
      **options,
    )
  after = features_lib.fingerprint(variables)
  if before != after:
    raise RuntimeError(
      f"the {protocol} probe changed the encoder's variables: fingerprint "
      f"{before[:12]} became {after[:12]}"
    )
  return figures


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
    ValueError: for arrays that do not fit, or a probe that diverges.
  """
  features_lib.check("train", train_features, train_labels, num_classes)
  features_lib.check("test", test_features, test_labels, num_classes)
  if np.shape(train_features)[1] != np.shape(test_features)[1]:
    raise ValueError(
      f"train features {np.shape(train_features)} and test features "
      f"{np.shape(test_features)} differ in width"
    )
  _check_schedule(epochs, batch_size, repetitions)
  train, test = features_lib.standardise(train_features, test_features)
  labels = jnp.asarray(train_labels, jnp.int32)
  batch_size = min(batch_size, len(train))
  counts = []
  for repetition in range(repetitions):
    layer = _fit(
      jax.random.key(_repetition_seed(seed, repetition)),
      jnp.asarray(train),
      labels,
      learning_rate,
      momentum,
      weight_decay,
      num_classes=num_classes,
      epochs=epochs,
      batch_size=batch_size,
    )
    counts.append(_count_correct(layer, test, test_labels))
  return _summarise(counts, len(test), num_classes) | {
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


def run_paper(
  encode: Encode,
  variables: Any,
  source: Source,
  *,
  mean: tuple[float, float, float],
  std: tuple[float, float, float],
  image_size: int,
  epochs: int = 100,
  batch_size: int = 256,
  learning_rate: float = 30.0,
  momentum: float = 0.9,
  weight_decay: float = 0.0,
  repetitions: int = 5,
  seed: int = 0,
  place: Callable[[Any], Any] = jnp.asarray,
  progress: Callable[[int, int], None] | None = None,
  train_scale: tuple[float, float] = (0.08, 1.0),
  resize_ratio: float = 36 / 32,
) -> dict[str, Any]:
  """Probes freshly augmented images: the protocol `paper`.

  The training stream drops the last, smaller batch of an epoch. A training set
  below the batch size is one batch. Test images are not augmented, so all
  repetitions share their features.

  Args:
    encode: the frozen encoder, on normalised images.
    variables: its variables.
    source: with the splits `train` and `test`.
    mean: of the channels, in [0, 1].
    std: of the channels.
    image_size: side of the images the encoder sees.
    epochs: passes over the training images.
    batch_size: images per step, over all devices.
    learning_rate: this and what follows up to `seed` as in `fit_features`.
    momentum: of SGD.
    weight_decay: L2.
    repetitions: probes that differ in weights, order and augmentation.
    seed: of all of them.
    place: puts host arrays (images, labels) on the devices.
    progress: called after each step with the steps done and in all.
    train_scale: area of the random crops, as a part of the image's.
    resize_ratio: shorter side of test images before the central crop, over
      `image_size`: 36/32 for CIFAR, 256/224 for ImageNet.

  Returns:
    As `fit_features`, with this protocol's transformations.

  Raises:
    ValueError: for a source without images or a probe that diverges.
  """
  _check_schedule(epochs, batch_size, repetitions)
  batch_size = min(batch_size, source.num_examples("train"))
  steps = epochs * (source.num_examples("train") // batch_size)
  resize = round(image_size * resize_ratio)
  test, test_labels = features_lib.extract(
    encode,
    variables,
    source,
    "test",
    mean=mean,
    std=std,
    batch_size=batch_size,
    resize=(resize, image_size),
    place=place,
  )
  optimizer = _optimizer(learning_rate, momentum, weight_decay, steps)
  view = augment.View(
    size=image_size,
    scale=train_scale,
    interpolation="bicubic",
    jitter_probability=0.0,
    grayscale=0.0,
    mean=mean,
    std=std,
  )

  @jax.jit
  def step(
    layer: Layer,
    momenta: Any,
    variables: Any,
    key: jax.Array,
    number: int,
    images: jax.Array,
    labels: jax.Array,
  ) -> tuple[Layer, Any]:
    key = jax.random.fold_in(key, number)
    inputs = encode(variables, augment.random_view(key, images, view))
    inputs = jax.lax.stop_gradient(inputs.astype(jnp.float32))
    return _update(layer, momenta, optimizer, inputs, labels)

  counts = []
  for repetition in range(repetitions):
    own_seed = _repetition_seed(seed, repetition)
    weights_key, view_key = jax.random.split(jax.random.key(own_seed))
    layer = _place_like(
      _initial_layer(weights_key, test.shape[1], source.num_classes), variables
    )
    momenta = _place_like(optimizer.init(layer), variables)
    batches = source.batches(batch_size=batch_size, seed=own_seed)
    for number in range(steps):
      batch = next(batches)
      layer, momenta = step(
        layer,
        momenta,
        variables,
        view_key,
        number,
        place(batch["image"]),
        place(batch["label"]),
      )
      if progress is not None:
        progress(repetition * steps + number + 1, repetitions * steps)
    counts.append(_count_correct(layer, test, test_labels))
  return _summarise(counts, len(test), source.num_classes) | {
    "protocol": "paper",
    "epochs": epochs,
    "batch_size": batch_size,
    "learning_rate": learning_rate,
    "schedule": "cosine to 0 per step",
    "momentum": momentum,
    "weight_decay": weight_decay,
    "repetitions": repetitions,
    "seed": seed,
    "augmentation": (
      f"RandomResizedCrop {image_size} bicubic scale {train_scale}, "
      "horizontal flip 0.5"
    ),
    "test_transform": f"Resize {resize} bicubic, CenterCrop {image_size}",
    "features": "frozen encoder in evaluation mode",
    "num_train": source.num_examples("train"),
    "num_test": len(test),
  }


@functools.partial(
  jax.jit, static_argnames=("num_classes", "epochs", "batch_size")
)
def _fit(
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
  optimizer = _optimizer(learning_rate, momentum, weight_decay, epochs * steps)
  weights_key, order_key = jax.random.split(key)
  layer = _initial_layer(weights_key, width, num_classes)

  def step(carry: tuple[Layer, Any], rows: jax.Array) -> tuple[Any, None]:
    # Rows of -1 pad the last batch of an epoch.
    return _update(
      *carry, optimizer, features[rows], labels[rows], rows >= 0
    ), None

  def epoch(carry: tuple[Layer, Any], index: jax.Array) -> tuple[Any, None]:
    order = jax.random.permutation(jax.random.fold_in(order_key, index), number)
    order = jnp.pad(order, (0, steps * batch_size - number), constant_values=-1)
    return jax.lax.scan(step, carry, order.reshape(steps, batch_size))

  carry = (layer, optimizer.init(layer))
  (layer, _), _ = jax.lax.scan(epoch, carry, jnp.arange(epochs))
  return layer


def _optimizer(
  learning_rate: float, momentum: float, weight_decay: float, steps: int
) -> optax.GradientTransformation:
  """PyTorch's SGD with L2 decay, under a cosine from step 0 to `steps`."""
  schedule = optax.cosine_decay_schedule(1.0, steps)
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.trace(momentum),
    optax.scale_by_schedule(lambda step: -learning_rate * schedule(step)),
  )


def _initial_layer(key: jax.Array, width: int, num_classes: int) -> Layer:
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


def _update(
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


def _count_correct(
  layer: Layer, features: np.ndarray, labels: np.ndarray
) -> tuple[int, int]:
  """Test examples whose class is ranked first, and among the first five."""
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(layer)):
    raise ValueError("the linear probe diverged: lower its learning rate")
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


def _summarise(
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


def _repetition_seed(seed: int, repetition: int) -> int:
  """Seeds in [0, 2^31) that no two pairs of arguments are likely to share."""
  sequence = np.random.SeedSequence([seed, repetition])
  return int(sequence.generate_state(1)[0] >> 1)


def _place_like(tree: Any, variables: Any) -> Any:
  """Lays `tree` out as the encoder's variables, so that one step compiles."""
  leaves = [x for x in jax.tree.leaves(variables) if isinstance(x, jax.Array)]
  return jax.device_put(tree, leaves[0].sharding) if leaves else tree


def _check_schedule(epochs: int, batch_size: int, repetitions: int) -> None:
  """Raises ValueError for a schedule without steps."""
  for name, value in (
    ("epochs", epochs),
    ("batch_size", batch_size),
    ("repetitions", repetitions),
  ):
    if value < 1:
      raise ValueError(f"{name}={value} must be positive")
