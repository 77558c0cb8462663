"""Measures invariance and equivariance of features to groups.

For an encoder f and elements g of a transformation group: is f(gx) equal to
f(x), can g be read from f(gx), and is f(gx) a linear function of f(x)? Elements
act on images in [0, 1], resized as for kNN, before normalisation.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import augment, transformations
from essl_jax.augment.arrays import as_float
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import collapse, ridge, single_pass
from essl_jax.evaluation.directions import unit_length, vary
from essl_jax.evaluation.encoding import BATCH
from essl_jax.evaluation.evaluation import Evaluation, Row, percent
from essl_jax.training import step as step_lib

_HELD_OUT_EVERY = 5  # every fifth training image is held out for the penalty


def measure(train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
  """Computes the figures of one group.

  Args:
    train: [N, K, D], features of every training image under all K elements; the
      first element is the identity.
    test: [M, K, D], likewise of the test images.

  Returns:
    For test images, with accuracies in percent:
      `cosine`: mean of cos(f(x), f(gx)) over images and elements except the
        identity; 1 for an invariant encoder, and if a feature is zero.
      `cosine_other_images`: mean of cos(f(x), f(x')) over pairs of different
        images, the reference for `cosine`.
      `readout_accuracy`: accuracy of a linear classifier that predicts g from
        f(gx), fitted on the training images; `chance` is the accuracy of
        guessing.
      `equivariance_r2`: the part of the variance of f(gx) that a linear map of
        f(x), fitted on the training images, explains; mean over elements except
        the identity. `identity_r2`: the part that f(x) itself explains. See
        `explained` for features that do not vary.
      `per_element`: the same figures by number of the element.
      `readout_penalty`, `equivariance_penalty`: penalties of the ridge
        regressions, chosen on a fifth of the training images.
  """
  elements = range(1, test.shape[1])
  unit = unit_length(test)
  has_none = ~(unit.any(-1) & unit[:, :1].any(-1))  # zeros count as equal
  cosines = np.where(has_none, 1, (unit * unit[:, :1]).sum(-1)).mean(0)
  accuracies, readout_penalty = _read_out(train, test)
  explained_by_map, penalty = _equivariance(train, test)
  identity = [explained(test[:, k], test[:, 0]) for k in elements]
  per_element: dict[str, dict[str, float]] = {
    "0": {"readout_accuracy": accuracies[0]}
  }
  for k in elements:
    per_element[str(k)] = {
      "cosine": float(cosines[k]),
      "readout_accuracy": accuracies[k],
      "equivariance_r2": explained_by_map[k - 1],
      "identity_r2": identity[k - 1],
    }
  return {
    "cosine": float(cosines[1:].mean()),
    "cosine_other_images": cosine_of_pairs(test[:, 0]),
    "readout_accuracy": float(np.mean(accuracies)),
    "chance": 100 / test.shape[1],
    "equivariance_r2": float(np.mean(explained_by_map)),
    "identity_r2": float(np.mean(identity)),
    "per_element": per_element,
    "readout_penalty": readout_penalty,
    "equivariance_penalty": penalty,
  }


def cosine_of_pairs(features: np.ndarray) -> float:
  """Mean cosine of all pairs of different rows of [N, D], N at least 2.

  A pair with a row of zeros, which has no direction, counts as 1.
  """
  rows = unit_length(features)
  if len(rows) < 2:
    raise ValueError("cosines of pairs need two rows or more, got 1")
  directed = int(rows.any(axis=-1).sum())
  total = (rows.sum(axis=0) ** 2).sum() - (rows**2).sum()
  pairs = len(rows) * (len(rows) - 1)
  return float((total + (pairs - directed * (directed - 1))) / pairs)


def explained(true: np.ndarray, predicted: np.ndarray) -> float:
  """R²: the explained part of the variance over all dimensions.

  Dimensions are added up before the division, so the figure does not depend on
  the basis. It is negative if the mean predicts better. Features that do not
  vary leave nothing to explain: their R² is 0.

  Args:
    true: [N, D].
    predicted: [N, D].

  Returns:
    1 - sum (true - predicted)^2 / sum (true - mean)^2.
  """
  true = np.asarray(true, np.float64)
  if not vary(true):
    return 0.0
  variance = ((true - true.mean(axis=0)) ** 2).sum()
  return float(1 - ((true - predicted) ** 2).sum() / variance)


def _read_out(train: np.ndarray, test: np.ndarray) -> tuple[list[float], float]:
  """The accuracy of each element in percent, and the chosen penalty."""
  number, elements, width = train.shape
  inputs = train.reshape(-1, width)
  indicators = np.tile(np.eye(elements), (number, 1))
  # All elements of an image are held out together.
  held_out = np.repeat(_held_out(number), elements)
  penalty = ridge.choose_penalty(inputs, [indicators], held_out)
  fitted = ridge.Ridge(inputs, test.reshape(-1, width))
  (scores,) = fitted.predict(indicators, [penalty])
  named = scores.argmax(axis=1).reshape(len(test), elements)
  hits = (named == np.arange(elements)).mean(axis=0)
  return [100 * float(x) for x in hits], penalty


def _equivariance(
  train: np.ndarray, test: np.ndarray
) -> tuple[list[float], float]:
  """R² of the map for each element except the identity, and the penalty."""
  elements = range(1, train.shape[1])
  targets = [train[:, k] for k in elements]
  penalty = ridge.choose_penalty(train[:, 0], targets, _held_out(len(train)))
  fitted = ridge.Ridge(train[:, 0], test[:, 0])
  found = []
  for k, target in zip(elements, targets, strict=True):
    (predicted,) = fitted.predict(target, [penalty])
    found.append(explained(test[:, k], predicted))
  return found, penalty


def _held_out(number: int) -> np.ndarray:
  return np.arange(number) % _HELD_OUT_EVERY == 0


def _features(
  bench: Any, state: step_lib.TrainState, name: str
) -> list[np.ndarray]:
  """Features [N, K, D] of sampled training and test images."""
  encoding, mesh = bench.encoding, bench.experiment.mesh
  group = transformations.find(name)
  variables = bench.encoder_variables(state)

  def encode(variables: Any, images: jax.Array) -> jax.Array:
    images = as_float(images)
    if encoding.resize is not None:
      images = augment.center_crop_resize(images, *encoding.resize)
    transformed, _ = group.apply_all(images)
    transformed = augment.normalize(transformed, **encoding.pixels)
    found = encoding.encode(variables, transformed)
    by_element = found.reshape(group.num_classes, len(images), -1)
    return jnp.swapaxes(by_element, 0, 1)

  mapped = parallel.map_examples(encode, mesh)

  def encode_batch(images: np.ndarray, _: int) -> jax.Array:
    bench.interrupt()
    return mapped(variables, parallel.shard(images, mesh))

  size = max(1, BATCH // group.num_classes) * mesh.size
  return [
    single_pass.run(
      encode_batch, encoding.sample, split, batch_size=size, mesh=mesh
    )[0]
    for split in ("train", "test")
  ]


class Symmetry(Evaluation):
  """Invariance and equivariance to the groups of `config.measures`."""

  def check(self, bench: Any) -> None:
    """Raises UsageError for groups that do not fit the images, or one image."""
    experiment = bench.experiment
    collapse.check_several(bench, "train")
    collapse.check_several(bench, "test")
    size = experiment.config.views.first.size
    channels = experiment.source.image_shape[2]
    images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    for name in experiment.config.measures.groups:
      try:
        group = transformations.find(name)
      except ValueError as error:
        raise UsageError(f"config.measures.groups: {error}") from error
      try:
        jax.eval_shape(group.apply_all, images)
        group.check_elements()
      except ValueError as error:
        raise UsageError(
          f"config.measures.groups: {name} does not act on images of"
          f" {size} x {size} x {channels} ({error}): leave it out"
        ) from error

  def run(self, bench: Any, state: Any) -> dict[str, Any] | None:
    """The figures of `measure` and the protocol, by group; None without any."""
    figures = {}
    for name in bench.experiment.config.measures.groups:
      train, test = _features(bench, state, name)
      figures[name] = measure(train, test) | {
        "num_train": len(train),
        "num_test": len(test),
        "classifier": "ridge regression of the elements' indicators",
        "features": "encoder; standardised by the training images for the maps",
        **bench.splits,
      }
    return figures or None

  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """Cosine, linear map and read-out of every group."""
    found = []
    for group, measures in figures.items():
      name = f"Under {group.replace('_', ' ')}: "
      rows = {
        "cosine": Row(
          f"{name}cosine to the transformed image",
          _show(measures, "cosine"),
          f"{_show(measures, 'cosine_other_images')} to other images",
        ),
        "equivariance_r2": Row(
          f"{name}R² of a linear map",
          _show(measures, "equivariance_r2"),
          f"{_show(measures, 'identity_r2')} without the map",
        ),
        "readout_accuracy": Row(
          f"{name}linear read-out of the element",
          percent(measures, "readout_accuracy"),
          f"chance {_show(measures, 'chance')}%",
        ),
      }
      found += [row for measure, row in rows.items() if measure in measures]
    return found


def _show(measures: Mapping[str, Any], name: str) -> str:
  value = measures.get(name)
  return "–" if value is None else f"{value:.6g}"


PART = Symmetry
