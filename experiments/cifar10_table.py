"""Does predicting rotations help on CIFAR-10? Three methods, with and without.

  python experiments/cifar10_table.py --data-dir=/data/tfds
  python experiments/cifar10_table.py --scale=full --data-dir=/data/tfds \
    --flag=--config.precision=bfloat16 --flag=--config.data.on_device=True
  python experiments/cifar10_table.py --scale=smoke --dry-run

`--scale=full` is the paper's recipe and wants accelerators, `small` takes
minutes a cell on a CPU core, `smoke` only shows that it runs. Cells that are
finished are not run again, others go on where they were; results come into
`experiments/results/cifar10/<scale>/`.
"""

from collections.abc import Sequence
import itertools
import sys
from typing import Any

import image_study
import study
import study_report
import study_runner

RECIPES = {
  "cifar_simclr": "SimCLR",
  "cifar_simsiam": "SimSiam",
  "cifar_barlow_twins": "Barlow Twins",
}
_PAPER = (
  "the paper, arXiv 2111.00899, table 1: linear probe, 800 epochs; as"
  " remembered, not read from a copy"
)
_SOLO = "solo-learn's table: online linear classifier, 1000 epochs"
_KOBAK = "github.com/dkobak/simclr-cifar10: 1000 epochs"
_QUOTED = (
  study.Quoted("SimCLR", "linear 91 to 92", _PAPER),
  study.Quoted("SimCLR", "linear 90.74", _SOLO),
  study.Quoted("SimCLR", "kNN 91.4, linear 91.7", _KOBAK),
  study.Quoted("E-SimCLR", "linear about 94", _PAPER),
  study.Quoted("SimSiam", "linear 91 to 92", _PAPER),
  study.Quoted("SimSiam", "linear 90.51", _SOLO),
  study.Quoted("E-SimSiam", "linear about 94", _PAPER),
  study.Quoted("Barlow Twins", "linear 92.10", _SOLO),
)


def cells(scale: str, seeds: Sequence[int]) -> list[study.Cell]:
  """Every recipe with and without equivariance."""
  return [
    image_study.cell(
      scale,
      name if variants else f"E-{name}",
      stem,
      seed,
      variants=variants,
    )
    for seed, (stem, name), variants in itertools.product(
      seeds, RECIPES.items(), ((), ("baseline",))
    )
  ]


def draw(figure: Any, records: list[dict[str, Any]]) -> None:
  """Accuracies by kNN and linear probe of every method."""
  rows = [x for name in RECIPES.values() for x in (f"E-{name}", name)]
  axes = figure.subplots(1, 2, sharey=True)
  study_report.dots(axes[0], records, rows, "knn_top1", "kNN (%)")
  study_report.dots(axes[1], records, rows, "linear_top1", "linear probe (%)")


STUDY = study.Study(
  name="cifar10",
  title="CIFAR-10: does predicting rotations help?",
  cells=cells,
  columns=image_study.COLUMNS,
  read=image_study.read,
  draw=draw,
  captions=image_study.CIFAR_CAPTIONS,
  seeds=image_study.SEEDS,
  quoted=_QUOTED,
)

if __name__ == "__main__":
  sys.exit(study_runner.main(STUDY, __doc__))
