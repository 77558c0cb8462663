"""Which transformations to be invariant to, and which to predict (figure 1).

  python experiments/transformation_study.py --data-dir=/data/tfds
  python experiments/transformation_study.py --scale=full --data-dir=/data/tfds

The baseline is SimCLR on CIFAR-10 with only random crops. Each transformation
is then added in two ways: as an augmentation of the two views (invariance), or
predicted from the third (E-SSL). All cells use the baseline recipe's learning
rate, so they differ only in this.
"""

from collections.abc import Sequence
import sys
from typing import Any

import image_study
import study
import study_report
import study_runner

GROUPS = {
  "horizontal_flip": "horizontal flip",
  "grayscale": "grayscale",
  "rotation": "four-fold rotation",
  "vertical_flip": "vertical flip",
  "jigsaw": "2 × 2 jigsaw",
  "blur": "four-fold blur",
  "inversion": "colour inversion",
  "half_swap": "half swap",
  "half_translation": "half translation",
}
BASELINE = "random crops alone"
WAYS = ("invariant", "predicted")
_CROPS_ALONE = tuple(
  f"--config.views.{view}.{field}=0.0"
  for view in ("first", "second", "third")
  for field in ("flip", "jitter_probability", "grayscale")
)


def _flags(scale: str, group: str, way: str) -> tuple[str, ...]:
  if way == "invariant":
    return (f"--config.views.extra={group}",)
  predicted = (
    f"--config.equivariance.group={group}",
    "--config.equivariance.weight=0.4",
  )
  if scale == "full":
    return predicted
  # Then every group costs the same: jigsaws have 24 elements.
  return (*predicted, "--config.equivariance.all_elements=False")


def cells(scale: str, seeds: Sequence[int]) -> list[study.Cell]:
  """The cells of the baseline and of every group in both ways."""

  def cell(seed: int, row: str, label: str, *flags: str) -> study.Cell:
    return image_study.cell(
      scale,
      row,
      "cifar_simclr",
      seed,
      variants=("baseline",),
      flags=(*_CROPS_ALONE, *flags),
      label=label,
    )

  found = []
  for seed in seeds:
    found.append(cell(seed, BASELINE, "crops"))
    for group, name in GROUPS.items():
      for way in WAYS:
        flags = _flags(scale, group, way)
        found.append(cell(seed, f"{name}, {way}", f"{group}-{way}", *flags))
  return found


def draw(figure: Any, records: list[dict[str, Any]]) -> None:
  """Draws what both ways add to the baseline's kNN accuracy, by group."""
  axes = figure.subplots()
  for i, way in enumerate(WAYS):
    for place, name in enumerate(GROUPS.values()):
      found = study_report.changes(
        records, f"{name}, {way}", BASELINE, "knn_top1"
      )
      if found:
        mean, error = study_report.mean_and_deviation(found)
        middle = place + 0.4 * i - 0.2
        axes.barh(middle, mean, 0.38, xerr=error, color=f"C{i}", capsize=3)
        axes.plot(found, [middle] * len(found), "k.", markersize=3)
    axes.barh(0, 0, color=f"C{i}", label=way)
  axes.axvline(0, color="k", linewidth=0.8)
  axes.set_yticks(range(len(GROUPS)), GROUPS.values())
  axes.invert_yaxis()
  axes.set_xlabel("kNN accuracy above random crops alone (points, by seed)")
  axes.legend(loc="lower left")


_RATE = " All cells have the learning rate of the baseline."
_ONE = " One random element of a group is predicted for each image, not all."
STUDY = study.Study(
  name="transformation_study",
  title="Invariance or prediction, transformation by transformation",
  cells=cells,
  columns=image_study.COLUMNS,
  read=image_study.read,
  draw=draw,
  captions={
    scale: text + _RATE + ("" if scale == "full" else _ONE)
    for scale, text in image_study.CIFAR_CAPTIONS.items()
  },
  seeds=image_study.SEEDS,
  baseline=BASELINE,
)

if __name__ == "__main__":
  sys.exit(study_runner.main(STUDY, __doc__))
