"""Ablations of E-SimCLR on CIFAR-10, one change at a time.

  python experiments/ablations.py --data-dir=/data/tfds
  python experiments/ablations.py --scale=full --data-dir=/data/tfds

All cells use E-SimCLR's learning rate, including those without prediction. If a
flip is predicted, no view is flipped at random; compare such rows with the row
that predicts only rotations on unflipped views.
"""

from collections.abc import Sequence
import sys
from typing import Any

import image_study
import study
import study_report
import study_runner

BASELINE = "E-SimCLR as it is"
_UNFLIPPED = tuple(
  f"--config.views.{view}.flip=0.0" for view in ("first", "second", "third")
)
_PRODUCT = (
  *_UNFLIPPED,
  "--config.equivariance.group=rotation*horizontal_flip",
)


def changes(width: int) -> dict[str, tuple[str, tuple[str, ...]]]:
  """The rows of the table.

  Args:
    width: width of the head's hidden layers; the recipe has two.

  Returns:
    A label for file names and the flags, by row.
  """
  hidden = "--config.equivariance.hidden_widths"
  scale = "--config.views.third.scale"
  return {
    BASELINE: ("recipe", ()),
    "one random element an image": (
      "one_element",
      ("--config.equivariance.all_elements=False",),
    ),
    "linear head": ("head0", (f"{hidden}=()",)),
    "head with one hidden layer": ("head1", (f"{hidden}=({width},)",)),
    "head with three hidden layers": (
      "head3",
      (f"{hidden}=({width},{width},{width})",),
    ),
    "view 3 of 32 pixels": ("third32", ("--config.views.third.size=32",)),
    "view 3 of 5 to 14% of the area": ("zoom", (f"{scale}=(0.05,0.14)",)),
    "view 3 of 8 to 100% of the area": ("wide", (f"{scale}=(0.08,1.0)",)),
    "predicted from two copies": (
      "relative",
      ("--config.equivariance.relative=True",),
    ),
    "prediction alone (RotNet)": ("rotnet", ()),
    "SSL alone": ("ssl", ("--config.equivariance.weight=0.0",)),
    "rotations, no random flips": ("unflipped", _UNFLIPPED),
    "rotations × flips, one head": (
      "joint",
      (*_PRODUCT, "--config.equivariance.heads=joint"),
    ),
    "rotations × flips, a head each": (
      "each",
      (*_PRODUCT, "--config.equivariance.heads=each"),
    ),
  }


def cells(scale: str, seeds: Sequence[int]) -> list[study.Cell]:
  """A cell for every change."""
  rows = changes(image_study.width(scale))
  return [
    image_study.cell(
      scale,
      row,
      "cifar_simclr",
      seed,
      variants=("rotnet",) if label == "rotnet" else (),
      flags=flags,
      label="" if label == "rotnet" else label,
    )
    for seed in seeds
    for row, (label, flags) in rows.items()
  ]


def draw(figure: Any, records: list[dict[str, Any]]) -> None:
  """Draws kNN and linear probe accuracies of every row."""
  rows = list(changes(0))
  axes = figure.subplots(1, 2, sharey=True)
  study_report.dots(axes[0], records, rows, "knn_top1", "kNN (%)")
  study_report.dots(axes[1], records, rows, "linear_top1", "linear probe (%)")


STUDY = study.Study(
  name="ablations",
  title="E-SimCLR on CIFAR-10: one change at a time",
  cells=cells,
  columns=image_study.COLUMNS,
  read=image_study.read,
  draw=draw,
  captions=image_study.CIFAR_CAPTIONS,
  seeds=image_study.SEEDS,
  baseline=BASELINE,
)

if __name__ == "__main__":
  sys.exit(study_runner.main(STUDY, __doc__))
