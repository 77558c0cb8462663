"""Linear classification on a frozen encoder: two protocols.

`paper` trains on freshly augmented images that pass the encoder at every step,
`fast` on features computed once. Both minimise the softmax cross entropy of
one linear layer by SGD with momentum, its learning rate falling to zero along
a cosine per step, and count the correct answers over all test images.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import augment
from essl_jax.data import Source
from essl_jax.errors import UsageError
from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation import linear_layer
from essl_jax.evaluation.features import Encode
from essl_jax.evaluation.linear_layer import Layer, fit_features

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
    ValueError: for a source without images.
    FloatingPointError: for a probe that diverges.
  """
  linear_layer.check_schedule(epochs, batch_size, repetitions)
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
  optimizer = linear_layer.sgd(learning_rate, momentum, weight_decay, steps)
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
    return linear_layer.update(layer, momenta, optimizer, inputs, labels)

  counts = []
  for repetition in range(repetitions):
    own_seed = linear_layer.repetition_seed(seed, repetition)
    weights_key, view_key = jax.random.split(jax.random.key(own_seed))
    layer = _place_like(
      linear_layer.initial_layer(
        weights_key, test.shape[1], source.num_classes
      ),
      variables,
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
    counts.append(linear_layer.count_correct(layer, test, test_labels))
  return linear_layer.summarise(counts, len(test), source.num_classes) | {
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


def _place_like(tree: Any, variables: Any) -> Any:
  """Lays `tree` out as the encoder's variables, so that one step compiles."""
  leaves = [x for x in jax.tree.leaves(variables) if isinstance(x, jax.Array)]
  return jax.device_put(tree, leaves[0].sharding) if leaves else tree
