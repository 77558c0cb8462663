"""Weighted k-nearest-neighbour classification on frozen features."""

from collections.abc import Iterable, Mapping, Sequence
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike
import numpy as np

from essl_jax import inputs
from essl_jax.config import bounds
from essl_jax.data.checks import check_there
from essl_jax.data.labels import class_names
from essl_jax.evaluation import confusion, features, pictures, ranking
from essl_jax.evaluation.evaluation import (
  Curve,
  Evaluation,
  Picture,
  Row,
  count,
  percent,
)


@inputs.any_sharding(by_example=False)
def predict(
  bank: ArrayLike,
  bank_labels: ArrayLike,
  queries: ArrayLike,
  *,
  num_classes: int,
  k: int,
  temperature: float,
  mesh: Mesh | None = None,
) -> jax.Array:
  """Ranks the classes of each query by its nearest neighbours in a bank.

  Both sides are L2-normalised. The k most similar bank entries (cosine) vote
  for their class with weight `exp(similarity / temperature)`. Similarities are
  computed in full float32 on every backend, for one block of queries at a time,
  so memory does not grow with the number of queries.

  Of classes with equal scores, such as those without a neighbour, the lower
  comes first; of equally similar bank entries, the earlier counts as nearer.
  Labels outside `[0, num_classes)` do not vote.

  Args:
    bank: features `[B, D]`, any float dtype.
    bank_labels: classes `[B]`, integers.
    queries: features `[Q, D]`, any float dtype.
    num_classes: number of classes C, static.
    k: number of neighbours, `1 <= k <= B`, static.
    temperature: divides the similarities, > 0 and finite.
    mesh: as in `run`, for arrays on the host.

  Returns:
    Classes `[Q, C]` int32, best first.

  Raises:
    ValueError: arrays do not fit each other or are known not to be finite, k is
      larger than the bank, or k, the temperature or the number of classes is
      not positive.

  Example:
    >>> bank = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> predict(bank, jnp.array([2, 0]), jnp.array([[0.9, 0.1]]),
    ...         num_classes=3, k=2, temperature=0.1)
    Array([[2, 0, 1]], dtype=int32)

  Reference: Wu et al., "Unsupervised Feature Learning via Non-Parametric
    Instance Discrimination", CVPR 2018 (arXiv 1805.01978).
  """
  # A bank that a mesh divides may not fit onto one device.
  as_array = jnp.asarray if mesh is None else np.asarray
  if not isinstance(bank_labels, jax.Array):  # JAX may truncate 64-bit labels
    bank_labels = np.asarray(bank_labels)
  arrays = as_array(bank), bank_labels, as_array(queries)
  ranking.check(*arrays, num_classes, (k,), temperature)
  inputs.check_finite("bank", bank)
  inputs.check_finite("queries", queries)
  (ranked,) = ranking.rank(
    *arrays, temperature, num_classes=num_classes, ks=(k,), mesh=mesh
  )
  return ranked


def run(
  bank: np.ndarray,
  bank_labels: np.ndarray,
  queries: np.ndarray,
  query_labels: np.ndarray,
  *,
  num_classes: int,
  k: int | Sequence[int],
  temperature: float,
  mesh: Mesh | None = None,
) -> dict[str, Any]:
  """Measures the accuracy of `predict` on labelled queries.

  Args:
    bank: features `[B, D]`.
    bank_labels: classes `[B]`, in `[0, num_classes)`.
    queries: features `[Q, D]`.
    query_labels: classes `[Q]`, in `[0, num_classes)`.
    num_classes: number of classes.
    k: number of neighbours, or several numbers; one pass over the bank serves
      all. A bank with fewer entries is used whole.
    temperature: divides the similarities, > 0.
    mesh: devices that share the bank; if None, the default device holds it.

  Returns:
    For the first k, `knn_top1` in percent (exact: correct / Q), and `knn_top5`
    if there are more than five classes; for any further k, say 20,
    `knn_top1_k20` and `knn_top5_k20`. Also the protocol: the first `k` as used,
    `temperature`, `bank_size`, `num_queries`. For up to 100 classes also
    `confusion`, for the first k: counts of queries by true class (rows) and
    predicted class (columns).

  Raises:
    ValueError: as in `predict`, or labels are out of range or do not fit the
      queries, or features are not finite.
  """
  features.check("bank", bank, bank_labels, num_classes)
  features.check("query", queries, query_labels, num_classes)
  ks = (k,) if isinstance(k, int) else tuple(k)
  used = tuple(min(each, len(bank)) for each in ks)
  arrays = np.asarray(bank), np.asarray(bank_labels), np.asarray(queries)
  ranking.check(*arrays, num_classes, used, temperature)
  ranked = ranking.rank(
    *arrays, temperature, num_classes=num_classes, ks=used, mesh=mesh
  )
  figures: dict[str, Any] = {}
  for number, (each, classes) in enumerate(zip(ks, ranked, strict=True)):
    suffix = f"_k{each}" if number else ""
    hits = np.asarray(classes) == np.asarray(query_labels)[:, None]
    for top in (1, 5) if num_classes > 5 else (1,):
      share = 100.0 * int(hits[:, :top].sum()) / len(hits)
      figures[f"knn_top{top}{suffix}"] = share
  if num_classes <= confusion.MOST:
    named = np.asarray(ranked[0])[:, 0]
    figures["confusion"] = confusion.count(query_labels, named, num_classes)
  return figures | {
    "k": used[0],
    "temperature": temperature,
    "bank_size": len(bank),
    "num_queries": len(queries),
  }


class Knn(Evaluation):
  """The kNN monitor, and the accuracy at the end.

  Attributes:
    every_epochs: epochs between two runs of the monitor, the first on the
      untrained encoder; 0 measures only at the end.
    k: number of neighbours, or several numbers, measured in one pass. The first
      gives `knn_top1`, which ranks checkpoints; another, say 20, gives
      `knn_top1_k20`.
    temperature: temperature of the neighbours' votes.
    bank_images: most training images in the bank, in the monitor and at the
      end; 0 means all. The choice is fixed (`data.subsets.sample`).
  """

  heading = "kNN"
  needs_training = False
  ranks = "knn_top1"
  circumstances = (
    "k",
    "temperature",
    "bank_size",
    "num_queries",
    "train_split",
    "test_split",
    "augmentation",
  )

  every_epochs: bounds.Whole = 1
  k: bounds.Count | bounds.Sizes = 200
  temperature: bounds.Positive = 0.1
  bank_images: bounds.Whole = 0

  @property
  def ks(self) -> tuple[int, ...]:
    """All numbers of neighbours, the monitor's first."""
    return (self.k,) if isinstance(self.k, int) else self.k

  @property
  def needs_labels(self) -> bool:
    """True."""
    return True

  def check(self, bench: Any) -> None:
    """Raises UsageError for more neighbours than the bank has images."""
    images = bench.experiment.labelled.num_examples("train")
    bank = min(self.bank_images or images, images)
    check_there("knn.k", max(self.ks), bank, "images of the bank")

  def monitor(self, bench: Any, state: Any) -> dict[str, float]:
    """The accuracies in percent."""
    found = self._classify(bench, state)
    return {name: found[name] for name in found if "top" in name}

  def describe(self, figures: Mapping[str, float]) -> str:
    """The accuracy of the first k."""
    return f"kNN {figures['knn_top1']:.2f}%"

  def run(self, bench: Any, state: Any) -> dict[str, Any]:
    """The accuracies and their protocol, see `run` above; and class names.

    `class_names` are added to `confusion` if the data have them.
    """
    found = self._classify(bench, state)
    names = class_names(bench.experiment.labelled)
    if names and "confusion" in found:
      found["class_names"] = list(names)
    return found | bench.splits | {"augmentation": "none"}

  def _classify(self, bench: Any, state: Any) -> dict[str, Any]:
    experiment = bench.experiment
    return run(
      *bench.features(state, "train", self.bank_images),
      *bench.features(state, "test"),
      num_classes=experiment.labelled.num_classes,
      k=self.ks,
      temperature=self.temperature,
      mesh=experiment.mesh,
    )

  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """The top-1 and top-5 accuracies of every k."""
    untrained = figures.get("untrained", {})
    found = []
    for name, title, k in _accuracies(figures):
      if name in untrained:
        note = _note(untrained, k)
        before = f"{title}, before training"
        found.append(Row(before, percent(untrained, name), note))
      found.append(Row(title, percent(figures, name), _note(figures, k)))
    return found

  @classmethod
  def curves(cls, figures: Mapping[str, Any]) -> dict[str, Curve]:
    """The accuracies of every k."""
    names = dict.fromkeys(("knn_top1", "knn_top5", *figures))
    return {name: Curve(title, "%") for name, title, _ in _accuracies(names)}

  @classmethod
  def pictures(
    cls, figures: Mapping[str, Mapping[str, Any]]
  ) -> Sequence[Picture | str]:
    """The confusion matrix of every run that has one."""
    return [
      picture
      for run, found in figures.items()
      for picture in confusion.of_classes(run, found)
    ]

  def draw(self, bench: Any, state: Any, axes: Any) -> bool:
    """The test features on their principal axes."""
    pictures.draw_features(axes, *bench.features(state, "test"))
    return True


def _accuracies(
  figures: Iterable[str],
) -> list[tuple[str, str, int | None]]:
  """Names and titles of accuracies, and their k (None for the first)."""
  found: list[tuple[str, str, int | None]] = []
  for name in figures:
    match = re.fullmatch(r"knn_top(\d)(?:_k(\d+))?", name)
    if match:
      top, k = match.groups()
      title = f"kNN top-{top}" + (f", k = {k}" if k else "")
      found.append((name, title, int(k) if k else None))
  return found


def _note(figures: Mapping[str, Any], k: int | None) -> str:
  return (
    f"k = {figures.get('k') if k is None else k}, temperature"
    f" {figures.get('temperature')}, bank of {count(figures, 'bank_size')},"
    f" {count(figures, 'num_queries')} test images"
  )


PART = Knn
