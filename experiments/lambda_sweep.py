"""Weight of the prediction: E-SimCLR on CIFAR-10 for several lambda.

  python experiments/lambda_sweep.py --data-dir=/data/tfds
  python experiments/lambda_sweep.py --scale=full --data-dir=/data/tfds

All cells use E-SimCLR's learning rate, including lambda 0, which therefore
differs from the recipe of the baseline.
"""

from collections.abc import Sequence
import sys
from typing import Any

import image_study
import study
import study_report
import study_runner

WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)


def _row(weight: float) -> str:
  return f"λ = {weight:g}"


def cells(scale: str, seeds: Sequence[int]) -> list[study.Cell]:
  """A cell for every weight."""
  return [
    image_study.cell(
      scale,
      _row(weight),
      "cifar_simclr",
      seed,
      flags=(f"--config.equivariance.weight={weight}",),
      label=f"lambda{weight:g}",
    )
    for seed in seeds
    for weight in WEIGHTS
  ]


def draw(figure: Any, records: list[dict[str, Any]]) -> None:
  """Draws accuracies over lambda."""
  axes = figure.subplots()
  for i, key in enumerate(("knn_top1", "linear_top1")):
    known = {
      place: study_report.mean_and_deviation(found)
      for place, weight in enumerate(WEIGHTS)
      if (found := study_report.known(records, _row(weight), key))
    }
    means, errors = zip(*known.values(), strict=True) if known else ((), ())
    label = image_study.COLUMNS[key]
    axes.errorbar(
      list(known),
      means,
      errors,
      color=f"C{i}",
      marker="o",
      capsize=3,
      label=label,
    )
  axes.set_xticks(range(len(WEIGHTS)), [f"{x:g}" for x in WEIGHTS])
  axes.set_xlabel("λ, the weight of the prediction")
  axes.set_ylabel("top-1 accuracy (%)")
  axes.legend()


STUDY = study.Study(
  name="lambda_sweep",
  title="E-SimCLR on CIFAR-10: how much should the prediction weigh?",
  cells=cells,
  columns=image_study.COLUMNS,
  read=image_study.read,
  draw=draw,
  captions=image_study.CIFAR_CAPTIONS,
  seeds=image_study.SEEDS,
  baseline=_row(0.0),
)

if __name__ == "__main__":
  sys.exit(study_runner.main(STUDY, __doc__))
