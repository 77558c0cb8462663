"""Flowers-102: predict rotations and translations, or be invariant to them.

  python experiments/flowers_table.py --data-dir=/data/tfds
  python experiments/flowers_table.py --scale=full --data-dir=/data/tfds

Here prediction should help where invariance hurts: a flower has no upright
position, yet rotations are a bad augmentation.
"""

from collections.abc import Sequence
import sys
from typing import Any

import image_study
import study
import study_report
import study_runner

_TRANSLATION = "--config.equivariance.group=half_translation"
_BASELINE = ("baseline",)
# By row: recipe, variants, flags, label.
ROWS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str]] = {
  "SimCLR": ("flowers_simclr", _BASELINE, (), ""),
  "E-SimCLR, rotations": ("flowers_simclr", (), (), ""),
  "SimCLR, rotations as augmentation": (
    "flowers_simclr",
    _BASELINE,
    ("--config.views.extra=rotation",),
    "rotation",
  ),
  "E-SimCLR, half translations": (
    "flowers_simclr",
    (),
    (_TRANSLATION,),
    "half_translation",
  ),
  "SimCLR, half translations as augmentation": (
    "flowers_simclr",
    _BASELINE,
    ("--config.views.extra=half_translation",),
    "half_translation",
  ),
  "SimSiam": ("flowers_simsiam", _BASELINE, (), ""),
  "E-SimSiam, rotations": ("flowers_simsiam", (), (), ""),
}
_PAPER = (
  "read off a figure for arXiv 2111.00899, kNN at epoch 800, ± 0.5; that its"
  " data are Flowers-102 is not confirmed"
)
_READ_OFF = (61, 65, 59.5, 62.4, 56.6)


def cells(scale: str, seeds: Sequence[int]) -> list[study.Cell]:
  """A cell for every row."""
  return [
    image_study.cell(
      scale, row, stem, seed, variants=variants, flags=flags, label=label
    )
    for seed in seeds
    for row, (stem, variants, flags, label) in ROWS.items()
  ]


def draw(figure: Any, records: list[dict[str, Any]]) -> None:
  """Draws kNN accuracies."""
  axes = figure.subplots()
  study_report.dots(axes, records, list(ROWS), "knn_top1", "kNN (%)")


STUDY = study.Study(
  name="flowers",
  title="Flowers-102: predicting a transformation against invariance to it",
  cells=cells,
  columns=image_study.COLUMNS,
  read=image_study.read,
  draw=draw,
  captions={
    "full": "Flowers-102 by the recipe; top-1 accuracy in % on test images.",
    "small": "Flowers-102 by the recipe's `:small`; top-1 accuracy in %.",
    "smoke": image_study.CIFAR_CAPTIONS["smoke"],
  },
  seeds=image_study.SEEDS,
  quoted=tuple(
    study.Quoted(row, f"kNN {figure}", _PAPER)
    for row, figure in zip(list(ROWS)[:5], _READ_OFF, strict=True)
  ),
)

if __name__ == "__main__":
  sys.exit(study_runner.main(STUDY, __doc__))
