"""ImageNet, ResNet-50: three methods, with and without rotations, by epochs.

  python experiments/imagenet_table.py --scale=full --data-dir=/data/tfds
  python experiments/imagenet_table.py --scale=full --data-dir=/data/imagenet \
    --flag=--config.data.name=folder --flag=--config.data.test_split=val
  python experiments/imagenet_table.py --scale=small --data-dir=/data/folder

`full` needs a pod of accelerators; `small` is `:tiny` on any folder of images
with classes, to try the programs.
"""

from collections.abc import Sequence
import sys
from typing import Any

import image_study
import study
import study_report
import study_runner

RECIPES = {
  "imagenet_simclr": "SimCLR",
  "imagenet_barlow_twins": "Barlow Twins",
  "imagenet_simsiam": "SimSiam",
}
# The paper's linear probe accuracies by method, view 3 and epochs; these are
# also the cells.
_WAYS = {
  "baseline": "{}",
  "scale=small": "E-{}, view 3 of 5 to 14%",
  "scale=large": "E-{}, view 3 of 8 to 100%",
}
_ACCURACY: dict[tuple[str, str], dict[int, float]] = {
  ("imagenet_simclr", "baseline"): {100: 67.6, 200: 69.7, 300: 70.4, 800: 71.9},
  ("imagenet_simclr", "scale=small"): {
    100: 68.2,
    200: 70.2,
    300: 71.3,
    800: 72.5,
  },
  ("imagenet_simclr", "scale=large"): {100: 68.2, 200: 70.2, 300: 71.1},
  ("imagenet_barlow_twins", "baseline"): {100: 66.7, 200: 69.8, 300: 70.9},
  ("imagenet_barlow_twins", "scale=small"): {100: 67.5, 200: 70.9, 300: 71.8},
  ("imagenet_barlow_twins", "scale=large"): {100: 67.3, 200: 70.6, 300: 71.8},
  ("imagenet_simsiam", "baseline"): {100: 67.9},
  ("imagenet_simsiam", "scale=small"): {100: 68.5},
}
_PAPER = "the paper, arXiv 2111.00899: linear probe, top-1, ImageNet"


def _row(stem: str, way: str, epochs: int | None = None) -> str:
  name = _WAYS[way].format(RECIPES[stem])
  return f"{name}, {epochs} epochs" if epochs else name


def cells(scale: str, seeds: Sequence[int]) -> list[study.Cell]:
  """The cells of the paper's table; below full scale, not by epochs."""
  found = []
  for seed in seeds:
    for (stem, way), by_epochs in _ACCURACY.items():
      for epochs in by_epochs if scale == "full" else (None,):
        length = (f"epochs={epochs}",) if epochs else ()
        row = _row(stem, way, epochs)
        found.append(
          image_study.cell(scale, row, stem, seed, variants=(*length, way))
        )
  return found


def draw(figure: Any, records: list[dict[str, Any]]) -> None:
  """Draws accuracies by epochs with the paper's at full scale, else rows."""
  rows = list(dict.fromkeys(x["row"] for x in records))
  if not any("epochs" in row for row in rows):
    axes = figure.subplots()
    study_report.dots(axes, records, rows, "linear_top1", "linear probe (%)")
    return
  for axes, (stem, name) in zip(
    figure.subplots(1, len(RECIPES), sharey=True), RECIPES.items(), strict=True
  ):
    for i, way in enumerate(_WAYS):
      paper = _ACCURACY.get((stem, way), {})
      label = _WAYS[way].format(name)
      if not paper:
        continue
      axes.plot(list(paper), list(paper.values()), f"C{i}x:")
      for epochs in paper:
        row = _row(stem, way, epochs)
        found = study_report.known(records, row, "linear_top1")
        if found:
          mean, error = study_report.mean_and_deviation(found)
          axes.errorbar(epochs, mean, error, fmt=f"C{i}o", capsize=3)
      axes.plot([], [], f"C{i}o", label=label)
    axes.set_xlabel("epochs")
    axes.set_title(f"{name} (crosses: the paper)")
    axes.legend(fontsize=7)


STUDY = study.Study(
  name="imagenet",
  title="ImageNet, ResNet-50: does predicting rotations help?",
  cells=cells,
  columns=image_study.COLUMNS,
  read=image_study.read,
  draw=draw,
  captions={
    "full": "ImageNet, ResNet-50; top-1 accuracy in % on validation images.",
    "small": "`:tiny`, a narrow ResNet-18 for two epochs on a folder of images;"
    " shows that the recipes run.",
    "smoke": image_study.CIFAR_CAPTIONS["smoke"],
  },
  seeds={"full": (0,), "small": (0,), "smoke": (0,)},
  quoted=tuple(
    study.Quoted(_row(stem, way, epochs), f"linear {accuracy}", _PAPER)
    for (stem, way), by_epochs in _ACCURACY.items()
    for epochs, accuracy in by_epochs.items()
  ),
)

if __name__ == "__main__":
  sys.exit(study_runner.main(STUDY, __doc__))
