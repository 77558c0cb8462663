"""Linear classification on a frozen encoder: two protocols.

`paper` trains on freshly augmented images that pass the encoder at every step,
`fast` on features computed once. Both minimise the softmax cross entropy of
one linear layer under a cosine and count the right answers over all test
images.
"""

from collections.abc import Callable
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from essl_jax import augment
from essl_jax.data import Source
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import classifier, linear_layer
from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation.features import Encode
from essl_jax.evaluation.linear_layer import fit_features
from essl_jax.evaluation.recipe import Recipe
from essl_jax.evaluation.saved import Saved

PROTOCOLS = ("paper", "fast", "none")
Labelled = tuple[np.ndarray, np.ndarray]
"""Features float32 [N, D] and labels int32 [N]."""


def run(
  encode: Encode,
  variables: Any,
  source: Source,
  *,
  protocol: str,
  recipe: Recipe,
  train: Callable[[], Labelled],
  test: Callable[[], Labelled],
  seed: int = 0,
  **options: Any,
) -> dict[str, Any]:
  """Runs a probe and asserts that it left the encoder as it was.

  Args:
    encode: the frozen encoder, on normalised images.
    variables: its variables.
    source: with the split `train`.
    protocol: `paper` (`run_paper`), `fast` (`fit_features`) or `none`.
    recipe: how the layer is trained.
    train: gives features and labels of the training images, for `fast`.
    test: likewise of the test images.
    seed: of the probes.
    **options: the other arguments of `run_paper`.

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
  if protocol == "fast":
    figures = fit_features(
      *train(),
      *test(),
      num_classes=source.num_classes,
      recipe=recipe,
      seed=seed,
    )
  else:
    options |= {"recipe": recipe, "seed": seed, "fingerprint": before}
    figures = run_paper(encode, variables, source, test(), **options)
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
  test: Labelled,
  *,
  recipe: Recipe,
  view: augment.View,
  seed: int = 0,
  mesh: Mesh | None = None,
  progress: Callable[[int, int], None] | None = None,
  workdir: pathlib.Path | None = None,
  save_every_epochs: int = 10,
  circumstances: dict[str, Any] | None = None,
  fingerprint: str | None = None,
) -> dict[str, Any]:
  """Probes freshly augmented images: the protocol `paper`.

  The training stream drops the last, smaller batch of an epoch. A training set
  below the batch size is one batch. Test images are not augmented, so all
  repetitions share their features.

  Args:
    encode: the frozen encoder, on normalised images.
    variables: its variables.
    source: with the split `train`.
    test: features [M, D] and labels of the test images.
    recipe: how the layer is trained.
    view: random crops and flips of the training images.
    seed: of weights, order and augmentation of all repetitions.
    mesh: of the devices that share each batch; the first device if absent.
    progress: called after each step with the steps done and in all; where it
      raises `Stopped`, the probe is saved.
    workdir: where an unfinished probe is saved, in `probe/`; nowhere if absent.
    save_every_epochs: how often.
    circumstances: what else decides the figures, to be reported.
    fingerprint: of the variables, if it is known.

  Returns:
    The figures of `linear_layer.summarise` and the protocol.

  Raises:
    UsageError: for a batch that the devices cannot divide.
    FloatingPointError: for a probe that diverges.
  """
  mesh = parallel.make_mesh(jax.devices()[:1]) if mesh is None else mesh
  number = source.num_examples("train")
  recipe = recipe.fitted(number, mesh, "probe.batch_size")
  described = _describe(recipe, view, seed, number, len(test[0]))
  described |= circumstances or {}
  path = workdir / "probe" / "linear_probe.npz" if workdir else None
  saved = Saved(path, mesh)
  fingerprint = fingerprint or features_lib.fingerprint(variables)
  saved.claim(described | {"encoder": fingerprint})
  counts = classifier.run(
    _frozen(encode, variables, test),
    source,
    mesh,
    view=view,
    recipe=recipe,
    optimizer=recipe.make_optimizer(number // recipe.batch_size),
    seed=seed,
    saved=saved,
    save_every_epochs=save_every_epochs,
    progress=progress,
  )
  figures = linear_layer.summarise(counts, len(test[0]), source.num_classes)
  return figures | described


def _frozen(
  encode: Encode, variables: Any, test: Labelled
) -> classifier.Features:
  """The features of an encoder that stays as it is."""

  def compute(
    params: Any, variables: Any, images: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, Any]:
    del params, key
    found = encode(variables, images).astype(jnp.float32)
    return jax.lax.stop_gradient(found), variables

  width = test[0].shape[1]
  return classifier.Features(compute, width, {}, variables, lambda _: test)


def train_view(
  size: int, mean: Any, std: Any, interpolation: str = "bicubic"
) -> augment.View:
  """Random crops of 8% to all of an image, and flips.

  Args:
    size: side of the crops.
    mean: of the channels, in [0, 1].
    std: of the channels.
    interpolation: `bilinear` or `bicubic`.

  Returns:
    The view: torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`.
  """
  return augment.View(
    size=size,
    scale=(0.08, 1.0),
    interpolation=interpolation,
    jitter_probability=0.0,
    grayscale=0.0,
    mean=mean,
    std=std,
  )


def describe_view(view: augment.View) -> str:
  """A training view in words, for protocols."""
  return (
    f"RandomResizedCrop {view.size} {view.interpolation} scale {view.scale}, "
    f"horizontal flip {view.flip:g}"
  )


def _describe(
  recipe: Recipe, view: augment.View, seed: int, train: int, test: int
) -> dict[str, Any]:
  return (
    {"protocol": "paper", "seed": seed}
    | recipe.describe()
    | {
      "augmentation": describe_view(view),
      "features": "frozen encoder in evaluation mode",
      "num_train": train,
      "num_test": test,
    }
  )
