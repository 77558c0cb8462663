"""Measures of collapse: the spread, rank and uniformity of features.

The functions take embeddings [N, D] of any real dtype and compute in float64.
They raise ValueError if embeddings are empty or not finite. Zeros, which have
no direction, and features that vary only by rounding count as collapsed: all
measures return their worst value for them.
"""

from collections.abc import Mapping
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import augment
from essl_jax.data import subsets
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import single_pass
from essl_jax.evaluation.directions import (
  are_zeros,
  as_rows,
  centred,
  cosines_of,
  unit_length,
)
from essl_jax.evaluation.encoding import BATCH
from essl_jax.evaluation.evaluation import Curve, Evaluation, Row, count
from essl_jax.training import step as step_lib

RANKME_EPSILON = 1e-7
_BLOCK_ROWS = 1024


def embedding_std(embeddings: np.ndarray) -> float:
  """Mean per-dimension deviation of unit-length embeddings [N, D].

  `methods.method.embedding_std` in float64: 1/sqrt(D) if they spread over the
  sphere, 0 if they have collapsed. Zeros do not deviate from the mean of the
  others.

  Reference:
    Chen and He 2021 (arXiv 2011.10566), figure 2.
  """
  rows = unit_length(embeddings)
  is_zero = ~rows.any(axis=-1)
  if is_zero.any() and not is_zero.all():
    rows[is_zero] = rows[~is_zero].mean(axis=0)
  return float(rows.std(axis=0).mean())


def effective_rank(embeddings: np.ndarray) -> float:
  """The exponential of the entropy of the singular values' shares.

  It ranges from 1 to min(N, D): k equal singular values, the others zero, give
  k. It is 0 for a matrix of zeros. `rankme` differs in that it adds a constant
  to every share.

  Args:
    embeddings: [N, D], not centred here; subtract their mean to count the
      directions in which they vary.

  Returns:
    exp(-sum p log p) of the shares p = sigma / sum sigma.

  Reference:
    Roy and Vetterli 2007 (EUSIPCO), definition 1.
  """
  return _entropic_rank(embeddings, 0.0)


def rankme(embeddings: np.ndarray) -> float:
  """RankMe: the effective rank with 1e-7 added to every share.

  The paper uses 25,600 embeddings of a projector, uncentred.

  Args:
    embeddings: [N, D], not centred here.

  Returns:
    exp(-sum p log p) of p = sigma / sum sigma + 1e-7; 0 if all are zeros.

  Reference:
    Garrido et al. 2023 (arXiv 2210.02885), equation 1.
  """
  return _entropic_rank(embeddings, RANKME_EPSILON)


def uniformity(embeddings: np.ndarray, t: float = 2.0) -> float:
  """Log of the mean Gaussian potential of all pairs of embeddings.

  Args:
    embeddings: [N, D], scaled to unit length here. Zeros have no direction and
      count as equal to every other embedding.
    t: the factor in exp(-t |x - y|^2).

  Returns:
    At most 0, which means collapse; about -2 t for many embeddings that spread
    evenly over a sphere of many dimensions.

  Raises:
    ValueError: there are fewer than two.

  Reference:
    Wang and Isola 2020 (arXiv 2005.10242), equation 2 and figure 5.
  """
  rows = unit_length(embeddings)
  number = len(rows)
  if number < 2:
    raise ValueError(f"uniformity needs two embeddings or more, got {number}")
  total = 0.0
  for start in range(0, number, _BLOCK_ROWS):
    block = rows[start : start + _BLOCK_ROWS]
    cosines = np.clip(cosines_of(block, rows), -1, 1)
    potentials = np.exp(-2 * t * (1 - cosines))
    own = potentials[np.arange(len(block)), start + np.arange(len(block))]
    total += float(potentials.sum() - own.sum())
  return float(np.log(total / (number * (number - 1))))


def alignment(first: np.ndarray, second: np.ndarray) -> float:
  """Mean squared distance of positive pairs, scaled to unit length.

  Args:
    first: [N, D], of one view of every image.
    second: [N, D], of another view of the same images.

  Returns:
    From 0, if views make no difference, to 4.

  Reference:
    Wang and Isola 2020 (arXiv 2005.10242), equation 1 with alpha = 2.
  """
  if first.shape != second.shape:
    raise ValueError(f"pairs differ in shape: {first.shape}, {second.shape}")
  difference = unit_length(first) - unit_length(second)
  return float((difference**2).sum(axis=1).mean())


def of_features(features: np.ndarray, images: int) -> dict[str, float]:
  """Measures of features that are already computed.

  Args:
    features: [N, D], one row per image.
    images: number of rows to use, chosen by `subsets.sample_rows`.

  Returns:
    `feature_std`, `effective_rank` of the features minus their mean, `rankme`
    of the uncentred features, and `uniformity`.
  """
  rows = features[subsets.sample_rows(len(features), images)]
  return {
    "feature_std": embedding_std(rows),
    "effective_rank": effective_rank(centred(rows)),
    "rankme": rankme(rows),
    "uniformity": uniformity(rows),
  }


def _entropic_rank(embeddings: np.ndarray, epsilon: float) -> float:
  rows = as_rows(embeddings)
  if are_zeros(rows):
    return 0.0
  values = np.linalg.svd(rows, compute_uv=False)
  shares = values / values.sum() + epsilon
  shares = shares[shares > 0]
  return float(np.exp(-(shares * np.log(shares)).sum()))


def _pairs(bench: Any, state: step_lib.TrainState) -> np.ndarray:
  """Features of two views of every sampled test image, [N, 2, F]."""
  experiment, encoding = bench.experiment, bench.encoding
  mesh, views = experiment.mesh, experiment.config.views
  variables = bench.encoder_variables(state)

  @functools.cache  # one compilation if both views are the same
  def encode_view(view: augment.View) -> Any:
    def function(variables: Any, batch: tuple[jax.Array, jax.Array]) -> Any:
      images, keys = batch
      drawn = augment.random_view(keys, images, view, extra=views.extra)
      return encoding.encode(variables, drawn)

    return parallel.map_examples(function, mesh)

  def encode_both(images: np.ndarray, first: int) -> jax.Array:
    bench.interrupt()
    found = []
    for number, view in enumerate((views.first, views.second)):
      key = jax.random.fold_in(
        jax.random.PRNGKey(experiment.config.seed), number
      )
      batch = single_pass.with_keys(images, key, first, mesh)
      found.append(encode_view(view)(variables, batch))
    return jnp.stack(found, axis=1)

  pairs, _ = single_pass.run(
    encode_both,
    encoding.sample,
    "test",
    batch_size=BATCH * mesh.size,
    mesh=mesh,
  )
  return pairs


def check_several(bench: Any, split: str) -> None:
  """Raises UsageError for a split of a single image."""
  number = bench.experiment.labelled.num_examples(split)
  if number < 2:
    raise UsageError(
      f"config.data.{split}_split has {number} image, but measures of a"
      " representation compare images: give at least 2"
    )


class Collapse(Evaluation):
  """Spread, rank, uniformity and alignment of the features."""

  def check(self, bench: Any) -> None:
    """Raises UsageError for a single image."""
    check_several(bench, "test")

  def look_every(self) -> None:
    """None: this runs whenever another evaluation is due."""

  def monitor(self, bench: Any, state: Any) -> dict[str, float]:
    """The figures of `of_features`."""
    images = bench.experiment.config.measures.images
    return of_features(self._features(bench, state), images)

  def run(self, bench: Any, state: Any) -> dict[str, Any]:
    """The figures of `of_features`, `alignment` and the protocol.

    An image's two views depend on the seed and its index, as in
    `transformation.run`.
    """
    config = bench.experiment.config
    features = self._features(bench, state)
    pairs = _pairs(bench, state)
    return of_features(features, config.measures.images) | {
      "alignment": alignment(pairs[:, 0], pairs[:, 1]),
      "width": features.shape[1],
      "feature_std_of_sphere": features.shape[1] ** -0.5,
      "images": min(len(features), config.measures.images),
      "features": "encoder; minus their mean for effective_rank",
      "rankme_epsilon": RANKME_EPSILON,
      "uniformity_t": 2.0,
      "alignment_alpha": 2.0,
      "positive_pairs": "one first view and one second view of a test image",
      "extra": config.views.extra,
      "test_split": config.data.labelled_test,
    }

  def _features(self, bench: Any, state: Any) -> np.ndarray:
    return bench.encoding.features(state, "test", bench.interrupt)[0]

  @classmethod
  def curves(cls, figures: Mapping[str, Any]) -> dict[str, Curve]:
    """The figures of `of_features`."""
    del figures
    return {
      "feature_std": Curve("Standard deviation of unit-length features"),
      "effective_rank": Curve("Effective rank of features", "rank"),
      "rankme": Curve("RankMe of features", "rank"),
      "uniformity": Curve("Uniformity of features"),
    }

  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """All measures, each with a reference value."""
    images = f"{count(figures, 'images')} test images"
    width = f"of {figures.get('width')} features"
    sphere = figures.get("feature_std_of_sphere", math.nan)
    titles = {
      "feature_std": (
        "Standard deviation of features",
        f"{sphere:.4g} if spread out, 0 if collapsed",
      ),
      "effective_rank": ("Effective rank", width),
      "rankme": ("RankMe", width),
      "alignment": ("Alignment", "lower is better"),
      "uniformity": ("Uniformity", "lower is better"),
    }
    return [
      Row(title, f"{figures[name]:.6g}", f"{scale}, {images}")
      for name, (title, scale) in titles.items()
      if figures.get(name) is not None
    ]


PART = Collapse
