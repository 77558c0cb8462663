"""How well a linear map of two views' features predicts how the views differ.

It predicts the differences of the views' parameters, in the numbers of AugSelf:
windows, colour jitter and blur; and also quarter turns.
"""

from collections.abc import Iterator, Mapping, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax.config import bounds
from essl_jax.devices import parallel
from essl_jax.evaluation import collapse, ridge, single_pass, view_pairs
from essl_jax.evaluation.encoding import BATCH
from essl_jax.evaluation.evaluation import Evaluation, Row, count, percent
from essl_jax.evaluation.view_pairs import NUMBERS, Pairs
from essl_jax.training import step as step_lib

_TITLES = {
  "crop_r2": "Relative crop of two views, R²",
  "color_r2": "Relative jitter of two views, R²",
  "blur_r2": "Relative blur of two views, R²",
  "rotation_accuracy": "Relative rotation of two views, accuracy",
}
_TURNS = 4
_HELD_OUT_EVERY = 5  # every fifth training image serves to choose the penalty
_LEAST = 10  # pairs to fit, and to measure on


def measure(train: Pairs, test: Pairs) -> dict[str, Any]:
  """Measures how well ridge regressions predict differences.

  Args:
    train: pairs to fit.
    test: pairs of other images, to measure on; the same differences.

  Returns:
    For each difference:
      `<name>_r2`: the part of the variance of the test pairs that a regression
        on the features of both views explains: the mean over the numbers that
        vary, 0 if none does. It is negative if the mean would predict better.
      `rotation_accuracy`: for `rot` instead, how often the turns between the
        views are right, in percent; a regression predicts the turns of each
        view from its own features. No linear map of both features could predict
        the turns between them.
      `rotation_chance`: with it, the accuracy in percent of always guessing the
        turns between two views that most training pairs have.
      `per_number`: R² by the name of the difference and of the number.
      `penalties`: by name, chosen on a fifth of the training images.
  """
  held_out = train.images % _HELD_OUT_EVERY == 0
  targets = {k: x for k, x in train.differences.items() if k != "rot"}
  predicted: dict[str, np.ndarray] = {}
  penalties: dict[str, float] = {}
  if targets:
    predicted, penalties = ridge.predict_each(
      train.features, targets, test.features, held_out
    )
  found: dict[str, Any] = {}
  per_number = {}
  for name, values in predicted.items():
    each = _explained(test.differences[name], values, NUMBERS[name])
    found[f"{name}_r2"] = float(np.mean([*each.values()] or [0.0]))
    per_number[name] = each
  if "rot" in train.differences:
    accuracy, penalties["rot"] = _rotation(train, test, held_out)
    found["rotation_accuracy"] = accuracy
    found["rotation_chance"] = _rotation_chance(train, test)
  return found | {"per_number": per_number, "penalties": penalties}


def _rotation(
  train: Pairs, test: Pairs, held_out: np.ndarray
) -> tuple[float, float]:
  """The percentage of right turns between views, and the penalty."""
  each = [
    np.concatenate(np.split(x.features, 2, axis=1)) for x in (train, test)
  ]
  turns = train.differences["rot"].T.reshape(-1).astype(int)
  scores, penalties = ridge.predict_each(
    each[0], {"rot": np.eye(_TURNS)[turns]}, each[1], np.tile(held_out, 2)
  )
  named = scores["rot"].argmax(axis=1).reshape(2, -1)
  hits = _between(named.T) == _between(test.differences["rot"])
  return 100 * float(hits.mean()), penalties["rot"]


def _rotation_chance(train: Pairs, test: Pairs) -> float:
  """The percentage of test pairs with the training pairs' most frequent turns.

  If only some views are turned, the most frequent turns are 0.
  """
  counts = np.bincount(_between(train.differences["rot"]), minlength=_TURNS)
  hits = _between(test.differences["rot"]) == counts.argmax()
  return 100 * float(hits.mean())


def _between(turns: np.ndarray) -> np.ndarray:
  """The turns that lead from the second view to the first, of [N, 2]."""
  first, second = turns.astype(int).T
  return (first - second) % _TURNS


def _explained(
  true: np.ndarray, predicted: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
  """R² of each number that varies, by name."""
  true = np.asarray(true, np.float64)
  lack = ((true - predicted) ** 2).sum(axis=0)
  variance = ((true - true.mean(axis=0)) ** 2).sum(axis=0)
  return {
    name: float(1 - lack[i] / variance[i])
    for i, name in enumerate(names)
    if variance[i] > 1e-9 * len(true)
  }


class Parameters(Evaluation):
  """R² of relative crop, jitter and blur, and accuracy of relative rotation.

  Attributes:
    pairs: number of pairs of views per training image; a test image has one.
      `measures.images` sets the number of images.
    blur: probability of the blur if the method's views have none. Blur and
      rotations are then measured on additional pairs that have them.
  """

  heading = "Parameters of views"

  pairs: bounds.Repetitions = 4
  blur: bounds.Fraction = 0.5

  def check(self, bench: Any) -> None:
    """Refuses too few images."""
    for split in ("train", "test"):
      collapse.check_several(bench, split)

  def run(self, bench: Any, state: Any) -> dict[str, Any]:
    """Figures of the state under `all` and `jittered`, and the protocol.

    `untrained` has the same for an encoder with random weights. An image's
    views depend only on the seed and the image's index.
    """
    config = bench.experiment.config
    states = {"trained": state, "untrained": bench.experiment.create_state()}
    found: dict[str, Any] = {x: {"all": {}, "jittered": {}} for x in states}
    counts: dict[str, Any] = {}
    for pair, names in view_pairs.of_views(config.views, self.blur):
      look = parallel.map_examples(
        view_pairs.make_look(bench.encoding.encode, pair, config.views.extra),
        bench.experiment.mesh,
      )
      for name, each in states.items():
        splits = self._look(bench, each, look, names)
        for kind, chosen in _subsets(*splits):
          _merge(found[name][kind], measure(*chosen))
          train, test = (len(x.images) for x in chosen)
          counts[kind] = {"train_pairs": train, "test_pairs": test}
    return {
      **found["trained"],
      "untrained": found["untrained"],
      "pairs": counts,
      "regression": "ridge, of the features of both views side by side; the"
      " turns of each view of its own",
      "views": "first and second; those for blur and rotation with them besides"
      " where these two have none",
      **bench.splits,
    }

  def _look(
    self, bench: Any, state: step_lib.TrainState, look: Any, names: Any
  ) -> list[Pairs]:
    """Makes pairs of training images, then of test images."""
    mesh, variables = bench.experiment.mesh, bench.encoder_variables(state)
    root = jax.random.PRNGKey(bench.experiment.config.seed)

    def look_at(
      images: np.ndarray, first: int, part: int, pairs: int
    ) -> jax.Array:
      bench.interrupt()
      found = []
      for number in range(pairs):
        # Training and test images share no draw, so a regression cannot
        # remember draws.
        key = jax.random.fold_in(jax.random.fold_in(root, part), number)
        batch = single_pass.with_keys(images, key, first, mesh)
        found.append(look(variables, batch))
      return jnp.stack(found, axis=1)

    return [
      view_pairs.as_pairs(
        single_pass.run(
          functools.partial(look_at, part=part, pairs=pairs),
          bench.encoding.sample,
          split,
          batch_size=BATCH * mesh.size,
          mesh=mesh,
        )[0],
        names,
      )
      for part, split, pairs in ((0, "train", self.pairs), (1, "test", 1))
    ]

  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """Each figure for all pairs; its note has the other figures."""
    images = count(figures.get("pairs", {}).get("all", {}), "test_pairs")
    untrained = figures.get("untrained", {})
    found = []
    for name, title in _TITLES.items():
      if name not in figures.get("all", {}):
        continue
      notes = [f"{_show(untrained.get('all', {}), name)} untrained"]
      if name in figures.get("jittered", {}):
        before = _show(untrained.get("jittered", {}), name)
        now = _show(figures["jittered"], name)
        notes.append(f"jittered pairs only {now}, {before} untrained")
      if name == "rotation_accuracy":
        notes.append(f"chance {percent(figures['all'], 'rotation_chance')}")
      notes.append(f"linear, {images} test pairs")
      value = _show(figures["all"], name)
      found.append(Row(title, value, "; ".join(notes)))
    return found


def _subsets(train: Pairs, test: Pairs) -> Iterator[tuple[str, Any]]:
  """All pairs; then, if any, the pairs whose views are both jittered."""
  yield "all", (train, test)
  chosen = [x.only(x.jittered) for x in (train, test)]
  # From several images, some of them held out.
  few = min(len(x.images) for x in chosen) < _LEAST
  held_out = {bool(x % _HELD_OUT_EVERY) for x in chosen[0].images}
  if not few and len(held_out) == 2:
    yield "jittered", chosen


def _merge(found: dict[str, Any], more: Mapping[str, Any]) -> None:
  """Adds figures, also to nested groups."""
  for name, value in more.items():
    if isinstance(value, dict):
      found.setdefault(name, {}).update(value)
    else:
      found[name] = value


def _show(figures: Mapping[str, Any], name: str) -> str:
  if name == "rotation_accuracy":
    return percent(figures, name)
  return f"{figures[name]:.4f}" if name in figures else "–"


PART = Parameters
