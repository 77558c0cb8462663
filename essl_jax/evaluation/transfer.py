"""Logistic regressions on the frozen features of other sets of images."""

from collections.abc import Mapping
import sys
from typing import Annotated, Any

import numpy as np

from essl_jax.config import bounds
from essl_jax.config.schema import find_source
from essl_jax.data import subsets
from essl_jax.errors import UsageError
from essl_jax.evaluation import broken, episodes
from essl_jax.evaluation.bench import Labelled
from essl_jax.evaluation.evaluation import Evaluation, Row
from essl_jax.evaluation.held_out import hold_out, regress
from essl_jax.evaluation.transfer_sets import Shelf, TransferSet
from essl_jax.texts import first_line

_RANGE = (-6, 5)  # exponents of the penalties


def _base(name: str) -> str:
  """A set's name without its folders and its version."""
  return name.rstrip("/").rpartition("/")[2].partition(":")[0]


def _of_one_class(features: tuple[Labelled, Labelled, np.ndarray]) -> str:
  """Says why a set cannot be learned from; empty if it can."""
  (_, labels), _, held_out = features
  if len(np.unique(labels[~held_out])) > 1:
    return ""
  return "has training images of only one class, and two or more are needed"


def _choice(figures: Mapping[str, Any]) -> str:
  """Says how the penalty was chosen, for a note; empty if unknown."""
  number = figures.get("num_validation")
  if number is None:
    return ""
  if not number:
    return ", none held out: no class has two, so the penalty is 1/N"
  return f", the penalty chosen on {number:,} held out"


class Transfer(Evaluation):
  """Logistic regressions on frozen features of other sets.

  Attributes:
    sets: names of TFDS sets, folders with a `/` in their name
      (`DIR/<split>/<class>/*`), `.npz` files, or known sources such as
      `digits`. TFDS sets that are not prepared are named and left out. The
      default is the sets of Kornblith et al. that TFDS has, and digits.
    dir: the TFDS data directory of these sets; by default that of
      `config.data`.
    per_class: names of sets, without versions and folders, whose metric is the
      mean of the accuracies of their classes. All others use the accuracy.
    penalties: number of penalties to try, from 1e-6 to 1e5 in equal steps of
      their logarithms.
    validation: part of each class's training images on which the penalty is
      chosen, in sets without a validation split of their own.
    labels: parts of the labels with which everything is repeated, such as 0.01
      and 0.1; see `data.subsets.choose`.
    shots: labelled images per class in few-shot episodes on test images, such
      as 1 and 5; none by default.
    ways: classes per episode.
    queries: test images per class in an episode.
    episodes: number of episodes.

  Reference:
    Kornblith et al. 2019 (arXiv 1805.08974), appendix A.6. For episodes, Tian
    et al. 2020 (arXiv 2003.11539), section 3: features of unit length, and
    scikit-learn's default penalty.
  """

  heading = "Transfer to other images"
  needs_training = False

  sets: tuple[str, ...] = (
    "cifar10",
    "cifar100",
    "food101",
    "oxford_iiit_pet",
    "oxford_flowers102",
    "caltech101",
    "cars196",
    "dtd",
    "sun397",
    "caltech_birds2011",
    "digits",
  )
  dir: str | None = None
  per_class: tuple[str, ...] = (
    "aircraft",
    "caltech101",
    "fgvc_aircraft",
    "oxford_flowers102",
    "oxford_iiit_pet",
  )
  penalties: Annotated[int, bounds.AtLeast(2), bounds.AtMost(1000)] = 45
  validation: Annotated[float, bounds.Above(0), bounds.Below(1)] = 0.2
  labels: tuple[bounds.Fraction, ...] = ()
  shots: tuple[bounds.Count, ...] = ()
  ways: Annotated[int, bounds.AtLeast(2), bounds.AtMost(10**4)] = 5
  queries: Annotated[int, bounds.AtLeast(1), bounds.AtMost(10**4)] = 15
  episodes: Annotated[int, bounds.AtLeast(2), bounds.AtMost(10**5)] = 600

  def check(self, bench: Any) -> None:
    """Names the unavailable sets; refuses if no set is left."""
    if not self.sets:
      raise UsageError(
        "config.transfer.sets is empty: name TFDS sets or folders, such as"
        " --config.transfer.sets=\"('cifar10','dtd')\", or leave out transfer"
      )
    found, left_out = self._find(bench, refuse_missing=True)
    for name, why in left_out.items():
      print(f"essl_jax: transfer leaves out {name}: {why}", file=sys.stderr)
    if not found:
      raise UsageError(
        f"config.transfer.sets: none of {', '.join(self.sets)} is available:"
        f" {next(iter(left_out.values()))}"
      )

  def run(self, bench: Any, state: Any) -> dict[str, Any]:
    """The figures of every set, and the sets left out."""
    found, left_out = self._find(bench)
    figures = {}
    with bench.progress("transfer") as tick:
      for number, (name, images) in enumerate(found.items()):
        tick(number, len(found))
        features = self._features(bench, state, images)
        if wrong := _of_one_class(features):
          left_out[name] = f"{name} {wrong}"
          continue
        figures[name] = self._measure(bench, name, images, *features)
      tick(len(found), len(found))
    each = [x["accuracy"] for x in figures.values()]
    return {
      "sets": figures,
      "left_out": left_out,
      "mean": float(np.mean(each)) if each else None,
      "penalties": self.penalties,
    }

  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """Each set by its metric, on all and on few labels, and its episodes."""
    found = []
    for name, own in figures.get("sets", {}).items():
      title, metric = f"Transfer to {name}", own.get("metric", "accuracy")
      size = f"{own.get('num_train', 0):,} training"
      note = f"{metric}, {size} and {own.get('num_test', 0):,} test images"
      note += _choice(own)
      if not own.get("is_converged", True):
        note += ", stopped before it converged"
      found.append(Row(title, f"{own.get('accuracy', 0):.2f}%", note))
      if said := broken.describe(own.get("broken", {})):
        found.append(Row(f"{title}: {broken.TITLE}", said))
      for share, few in own.get("few_labels", {}).items():
        note = f"{few['num_train']:,} images{_choice(few)}"
        value = f"{few['accuracy']:.2f}%"
        found.append(Row(f"{title}, {share} of labels", value, note))
      for kind, some in own.get("episodes", {}).items():
        if "left_out" in some:
          found.append(Row(f"{title}, {kind}", "left out", some["left_out"]))
          continue
        value = f"{some['accuracy']:.2f}% ± {some['interval']:.2f}"
        note = f"{some['episodes']:,} episodes, 95% interval"
        found.append(Row(f"{title}, {kind}", value, note))
    if figures.get("left_out"):
      title = "Transfer: sets left out"
      found.append(Row(title, ", ".join(figures["left_out"])))
    return found

  def _find(
    self, bench: Any, **options: bool
  ) -> tuple[dict[str, TransferSet], dict[str, str]]:
    config = bench.experiment.config
    is_tfds = find_source(config.data.name) is None
    there = self.dir or (config.data.dir if is_tfds else None)
    names = list(dict.fromkeys(self.sets))
    return Shelf(there, config.views.first.size, config.data).find(
      names, **options
    )

  def _measure(
    self,
    bench: Any,
    name: str,
    images: TransferSet,
    train: Labelled,
    test: Labelled,
    held_out: np.ndarray,
  ) -> dict[str, Any]:
    """The figures of one set."""
    options: dict[str, Any] = {
      "num_classes": images.source.num_classes,
      "per_class": _base(name) in map(_base, self.per_class),
      "penalties": np.logspace(*_RANGE, self.penalties),
    }
    bench.interrupt()
    figures = regress(train, test, held_out, **options)
    for share in self.labels:
      bench.interrupt()
      rows = subsets.choose(train[1], share)
      few = train[0][rows], train[1][rows]
      held_out = hold_out(few[1], self.validation)
      found = regress(few, test, held_out, **options)
      figures.setdefault("few_labels", {})[f"{100 * share:g}%"] = found
    for shots in self.shots:
      bench.interrupt()
      try:
        found = episodes.run(
          *test,
          ways=self.ways,
          shots=shots,
          queries=self.queries,
          number=self.episodes,
        )
      except UsageError as error:  # too few classes or images
        found = {"left_out": first_line(error)}
      kind = f"{self.ways}-way {shots}-shot"
      figures.setdefault("episodes", {})[kind] = found
    return figures | {
      "metric": "mean per class" if options["per_class"] else "accuracy",
      "num_test": len(test[1]),
      "num_classes": options["num_classes"],
      "splits": dict(images.splits),
      "broken": broken.of_all_processes(images.broken),
    }

  def _features(
    self, bench: Any, state: Any, images: TransferSet
  ) -> tuple[Labelled, Labelled, np.ndarray]:
    """Features of training and test images, and which ones are held out."""
    variables = bench.encoder_variables(state)
    size = bench.experiment.config.views.first.size

    def extract(source: Any, split: str) -> Labelled:
      is_sized = source.image_shape[:2] == (size, size)
      return bench.encoding.extract(
        variables,
        split,
        None if is_sized else (size, size),
        bench.interrupt,
        source,
      )

    features, labels = extract(images.source, "train")
    test = extract(images.source, "test")
    if images.validation is None:
      return (features, labels), test, hold_out(labels, self.validation)
    more, of_more = extract(images.validation, "test")
    held_out = np.arange(len(labels) + len(of_more)) >= len(labels)
    both = np.concatenate([features, more]), np.concatenate([labels, of_more])
    return both, test, held_out


PART = Transfer
