"""Does predicting rotations help on CIFAR-10? Methods with and without it.

  python experiments/cifar10_table.py --data-dir=/data/tfds
  python experiments/cifar10_table.py --scale=full --data-dir=/data/tfds \
    --flag=--config.precision=bfloat16 --flag=--config.data.on_device=True
  python experiments/cifar10_table.py --scale=smoke --dry-run

`--scale=full` is the paper's recipe and needs accelerators, `medium` takes
about an hour per cell on a CPU core, `small` minutes, and `smoke` only shows
that the programs run. At `medium`, both rows of a pair differ only in the term.
Finished cells are not run again, others resume; results go to
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
  "cifar_byol": "BYOL",
  "cifar_vicreg": "VICReg",
  "cifar_mocov3": "MoCo v3",
  "cifar_mocov3:vit": "MoCo v3, ViT",
  "cifar_dino": "DINO",
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
  study.Quoted("BYOL", "linear 92.58", _SOLO),
  study.Quoted("VICReg", "linear 92.07", _SOLO),
  study.Quoted("MoCo v3", "linear 93.10", _SOLO),
  study.Quoted("DINO", "linear 89.52", _SOLO),
)
# At `medium`, the baseline gets E-SSL's rate, since it also has few epochs, and
# SimCLR gets the temperature that was best for few epochs in `fast_study.py`.
_RATE = ("--config.optimizer.learning_rate=0.06",)
_MEDIUM = {
  "cifar_simclr": ("--config.temperature=0.2", *_RATE),
  "cifar_simsiam": _RATE,
}
EQUAL = "SimCLR, arithmetic of E-SimCLR"
# E-SimCLR encodes 2 + 4 / 4 areas of 32 x 32 per image, SimCLR 2: 5 epochs of
# E-SimCLR are 7.5 of SimCLR, rounded in favour of the baseline.
_EQUAL = ("--config.epochs=8",)


def cells(scale: str, seeds: Sequence[int]) -> list[study.Cell]:
  """The cells of every recipe with and without equivariance."""
  if scale == "medium":
    return _medium_cells(seeds)
  found = []
  for seed, (recipe, name), is_baseline in itertools.product(
    seeds, RECIPES.items(), (False, True)
  ):
    stem, _, variant = recipe.partition(":")
    variants = [*filter(None, [variant]), *["baseline"] * is_baseline]
    row = name if is_baseline else f"E-{name}"
    found.append(image_study.cell(scale, row, stem, seed, variants))
  return found


def _medium_cells(seeds: Sequence[int]) -> list[study.Cell]:
  """Pairs that differ only in the term, and SimCLR with equal arithmetic."""
  found = []
  for seed in seeds:
    for stem, flags in _MEDIUM.items():
      for variants in ((), ("baseline",)):
        row = RECIPES[stem] if variants else f"E-{RECIPES[stem]}"
        found.append(
          image_study.cell("medium", row, stem, seed, variants, flags)
        )
  for seed in seeds:
    flags = (*_MEDIUM["cifar_simclr"], *_EQUAL)
    found.append(
      image_study.cell(
        "medium", EQUAL, "cifar_simclr", seed, ("baseline",), flags, "equal"
      )
    )
  return found


def draw(figure: Any, records: list[dict[str, Any]]) -> None:
  """Draws kNN and linear probe accuracies of every method."""
  rows = [x for name in RECIPES.values() for x in (f"E-{name}", name)]
  rows.append(EQUAL)
  present = {record["row"] for record in records}
  rows = [row for row in rows if row in present]
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
  captions=image_study.CIFAR_CAPTIONS
  | {
    "medium": "All 50,000 images of CIFAR-10, 5 epochs of batch 128 (8 where"
    " the arithmetic is that of E-SimCLR), ResNet-18 of width 16; base learning"
    " rate 0.06 in all rows, temperature 0.2; top-1 accuracy in % on all test"
    " images.",
    "small": image_study.CIFAR_CAPTIONS["small"]
    + " The ViT has 4 blocks of 96 channels and patches of 4 pixels.",
  },
  seeds=image_study.SEEDS | {"medium": (0, 1, 2)},
  quoted=_QUOTED,
)

if __name__ == "__main__":
  sys.exit(study_runner.main(STUDY, __doc__))
