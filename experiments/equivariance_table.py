"""What do equivariance terms preserve? SimCLR on CIFAR-10 with each term.

  python experiments/equivariance_table.py --data-dir=/data/tfds
  python experiments/equivariance_table.py --scale=full --data-dir=/data/tfds \
    --flag=--config.precision=bfloat16 --flag=--config.data.on_device=True
  python experiments/equivariance_table.py --scale=smoke

Rows differ only in the term: SimCLR also uses E-SimCLR's learning rate. Besides
kNN and probe, the table shows how well the features of two views predict their
relative crop, jitter, blur and rotation, how well those of one image predict
its rotation, and, for terms with a predictor, the mean reciprocal rank of
predicted views.
"""

from collections.abc import Mapping, Sequence
import sys
from typing import Any

import image_study
import study
import study_report
import study_runner

from essl_jax.config import parts, term_variants
from essl_jax.equivariance.term import Predictor

BASELINE = "SimCLR"
_STEM = "cifar_simclr"
# The term of the recipe without a variant.
_OWN = "prediction"
# E-SimCLR's learning rate, which the recipe uses for all terms.
_RATE = "--config.optimizer.learning_rate=0.06"
_EVALUATIONS = ("knn", "probe", "symmetry", "parameters")
_QUICK = {
  "full": (),
  "small": ("--config.parameters.pairs=2",),
  "smoke": ("--config.parameters.pairs=1",),
}
_QUICK_RANKS = {
  "full": (),
  "small": ("--config.ranks.images=200",),
  "smoke": ("--config.ranks.images=20", "--config.ranks.candidates=10"),
}
_EQUIMOD = (
  "arXiv 2211.01244: linear probe, CIFAR-10, ResNet-18, 800 epochs, LARS"
)
_SEQ_JEPA = (
  "arXiv 2505.03176: CIFAR-100, ResNet-18, 2000 epochs; R² by a network with a"
  " hidden layer, of blur by a linear one: not comparable with the ridge"
  " regressions here"
)
_COLORS = "color_r2"
_UNTRAINED = ("crop_r2", _COLORS, "blur_r2")


def row(term: str) -> str:
  """The row of a term."""
  return f"{BASELINE} with {term}"


def cells(scale: str, seeds: Sequence[int]) -> list[study.Cell]:
  """The cells of SimCLR alone and with each term."""
  found = []
  for seed in seeds:
    given = _flags(scale, _EVALUATIONS)
    found.append(
      image_study.cell(
        scale, BASELINE, _STEM, seed, ("baseline",), (*given, _RATE)
      )
    )
    for term in (_OWN, *term_variants()):
      asked = _EVALUATIONS
      flags: tuple[str, ...] = ()
      if issubclass(parts.TERM.find(term), Predictor):
        asked, flags = (*asked, "ranks"), _QUICK_RANKS[scale]
      variants = () if term == _OWN else (term,)
      flags = (*_flags(scale, asked), *flags)
      found.append(
        image_study.cell(scale, row(term), _STEM, seed, variants, flags)
      )
  return found


def _flags(scale: str, evaluations: Sequence[str]) -> tuple[str, ...]:
  return (f"--config.evaluations={','.join(evaluations)}", *_QUICK[scale])


def read(
  results: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The figures and the protocol of a run; all figures in percent.

  Args:
    results: of `results.json`.

  Returns:
    As in `image_study.read`.
  """
  figures, protocol = image_study.read(results)
  found = results["figures"]
  told = found["parameters"]
  symmetry = found.get("symmetry", {}).get("rotation", {})
  ranks = list(found.get("ranks", {}).values())
  for name in _UNTRAINED:
    figures[name] = _percent(told["all"], name)
    figures[f"{name}_untrained"] = _percent(told["untrained"]["all"], name)
  figures |= {
    "color_r2_jittered": _percent(told["jittered"], _COLORS),
    "rotation": told["all"].get("rotation_accuracy"),
    "rotation_untrained": told["untrained"]["all"].get("rotation_accuracy"),
    "readout": symmetry.get("readout_accuracy"),
    "mrr": _percent(ranks[0], "mrr") if ranks else None,
  }
  protocol |= {name: found.get(name) for name in ("parameters", "ranks")}
  return figures, protocol


def _percent(figures: Mapping[str, float], name: str) -> float | None:
  return 100 * figures[name] if name in figures else None


def draw(figure: Any, records: list[dict[str, Any]]) -> None:
  """Draws six of the columns."""
  there = {record["row"] for record in records}
  known = [BASELINE, *map(row, (_OWN, *term_variants()))]
  rows = [x for x in known if x in there]
  axes = figure.subplots(2, 3, sharey=True).flat
  names = ("knn_top1", "linear_top1", "readout", *_UNTRAINED)
  for one, name in zip(axes, names, strict=True):
    study_report.dots(one, records, rows, name, COLUMNS[name])
    one.set_xlabel(f"{COLUMNS[name]} (%)")


COLUMNS = {
  "knn_top1": "kNN",
  "linear_top1": "linear probe",
  "crop_r2": "crop R²",
  _COLORS: "jitter R²",
  "color_r2_jittered": "jitter R², jittered pairs",
  "blur_r2": "blur R²",
  "rotation": "relative rotation",
  "readout": "rotation read-out",
  "mrr": "MRR",
  "knn_top1_untrained": "kNN untrained",
  "crop_r2_untrained": "crop R² untrained",
  "color_r2_untrained": "jitter R² untrained",
  "blur_r2_untrained": "blur R² untrained",
  "rotation_untrained": "relative rotation untrained",
}
_ALL = (
  " All columns are in %: accuracies, 100 R² of ridge regressions, and 100"
  " times the mean reciprocal rank among {views} views (by chance {chance})."
)
STUDY = study.Study(
  name="equivariance",
  title="What do equivariance terms keep?",
  cells=cells,
  columns=COLUMNS,
  read=read,
  draw=draw,
  captions={
    scale: text
    + _ALL.format(
      views=10 if scale == "smoke" else 50,
      chance="29.29" if scale == "smoke" else "9.00",
    )
    for scale, text in image_study.CIFAR_CAPTIONS.items()
  },
  seeds=image_study.SEEDS | {"small": (0, 1)},
  quoted=(
    study.Quoted(BASELINE, "linear 90.96", _EQUIMOD),
    study.Quoted(row("equimod"), "linear 92.79", _EQUIMOD),
    study.Quoted(
      BASELINE, "linear 61.72, crop 56, jitter 18, blur 4", _SEQ_JEPA
    ),
    study.Quoted(
      row("equimod"), "linear 61.80, crop 59, jitter 49, blur 74", _SEQ_JEPA
    ),
    study.Quoted(
      row("sie"), "linear 58.81, crop 34, jitter 26, blur 53", _SEQ_JEPA
    ),
  ),
  baseline=BASELINE,
)

if __name__ == "__main__":
  sys.exit(study_runner.main(STUDY, __doc__))
