"""Does predicting a symmetry help a regression? Photonic crystals.

  python experiments/photonics_table.py
  python experiments/photonics_table.py --collect-only
  python experiments/photonics_table.py --scale=full --data-dir=DIR

E-SimCLR, SimCLR, SimCLR + transform and the supervised regressor, for both
kinds of cells. At `small`, the first run of a kind generates its cells; `full`
reads them from DIR/blob and DIR/gpm, made by `python -m
essl_jax.photonics.generate`.
"""

from collections.abc import Mapping, Sequence
import itertools
import sys
from typing import Any

import numpy as np
import study
import study_report
import study_runner

KINDS = ("blob", "gpm")
NAMES = {
  "": "E-SimCLR",
  "simclr": "SimCLR",
  "transform": "SimCLR + transform",
  "supervised": "supervised",
}
_SHOWN = 4  # unit cells whose densities are drawn
_EVERY = 4  # keep every fourth frequency; the densities are smooth
_SMOKE = (
  "--config.batch_size=16",
  "--config.data.generate.labelled=10",
  "--config.data.generate.unlabelled=32",
  "--config.encoder.width=2",
  "--config.regression.labelled=(4,)",
  "--config.regression.epochs=2",
  "--config.regression.batch_size=4",
  "--config.regression.repetitions=1",
)


def cells(scale: str, seeds: Sequence[int]) -> list[study.Cell]:
  """A cell for every kind of unit cells with every method."""
  found = []
  for seed, kind, (variant, name) in itertools.product(
    seeds, KINDS, NAMES.items()
  ):
    chosen = [*([] if scale == "full" else ["small"]), *filter(None, [variant])]
    recipe = f"photonics_{kind}" + (f":{','.join(chosen)}" if chosen else "")
    flags: tuple[str, ...] = ()
    if scale == "smoke":
      made = f"--config.data.dir=runs/photonics_{kind}_smoke_cells"
      flags = (made, *_SMOKE)
      if variant != "supervised":
        flags += ("--config.epochs=1",)
    found.append(
      study.Cell(
        f"{kind}, {name}",
        recipe,
        seed,
        flags,
        data=kind,
        makes="" if scale == "full" else kind,
      )
    )
  return found


def read(
  results: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The errors in percent, a few densities, and the protocol.

  Args:
    results: the content of `results.json`.

  Returns:
    The figures for the largest number of labelled cells, and the protocol.
  """
  found = results["figures"]["regression"]
  sizes = found["by_labelled"].items()
  labelled, errors = max(sizes, key=lambda item: int(item[0]))
  transformation = results["figures"].get("transformation", {})
  samples = found["samples"]
  thin = lambda curve: np.round(curve[::_EVERY], 3).tolist()
  figures = {
    **errors,
    "recognised": transformation.get("transformation_accuracy"),
    "labelled": int(labelled),
    "samples": {
      "frequencies": thin(samples["frequencies"]),
      "true": [thin(x) for x in samples["true"][:_SHOWN]],
      "predicted": [thin(x) for x in samples["predicted"][:_SHOWN]],
    },
  }
  apart = ("by_labelled", "samples")
  return figures, {k: v for k, v in found.items() if k not in apart}


def draw(figure: Any, records: list[dict[str, Any]]) -> None:
  """Draws errors, and true and predicted densities of a few test cells."""
  figure.set_size_inches(15, 8)
  grid = figure.subplots(len(KINDS), _SHOWN + 1, squeeze=False)
  for kind, axes in zip(KINDS, grid, strict=True):
    rows = [f"{kind}, {name}" for name in NAMES.values()]
    study_report.dots(axes[0], records, rows, "dos_error", "DOS error (%)")
    for number, one in enumerate(axes[1:]):
      _draw_densities(one, number, rows, records)
    if axes[1].lines:
      axes[1].legend(fontsize=7)


def _draw_densities(
  axes: Any, number: int, rows: Sequence[str], records: list[dict[str, Any]]
) -> None:
  for i, row in enumerate(rows):
    found = [x["figures"]["samples"] for x in records if x["row"] == row]
    if not found or number >= len(found[0]["predicted"]):
      continue
    frequencies = found[0]["frequencies"]
    if not axes.lines:
      true = found[0]["true"][number]
      axes.plot(frequencies, true, "k", lw=2, label="true")
    predicted = found[0]["predicted"][number]
    label = row.partition(", ")[2]
    axes.plot(frequencies, predicted, color=f"C{i}", lw=0.9, label=label)
  axes.set_title(f"test cell {number}")
  axes.set_xlabel(r"$\omega \sqrt{\bar\varepsilon}\, a / 2 \pi c$")


_ORDER = (
  "the paper, arXiv 2111.00899, section 5: its order of errors; its cells were"
  " not published, so that its figures cannot be compared with these"
)
_PLACES = ("lowest of three", "second of three", "highest of three")
STUDY = study.Study(
  name="photonics",
  title="Photonic crystals: does predicting a symmetry help a regression?",
  cells=cells,
  columns={
    "dos_error": "DOS error",
    "dos_error_minimum_over_test": "minimum over epochs on test",
    "recognised": "recognised",
  },
  read=read,
  draw=draw,
  captions={
    "full": "3,000 labelled cells, 201 epochs of pre-training; errors in %.",
    "small": "256 labelled cells, 2,000 without labels, 20 epochs of"
    " pre-training, a narrow network; errors in %.",
    "smoke": "A handful of cells: shows that it runs, nothing else.",
  },
  seeds={"full": (0, 1, 2), "small": (0, 1, 2), "smoke": (0,)},
  quoted=tuple(
    study.Quoted(f"{kind}, {name}", place, _ORDER)
    for kind in KINDS
    for name, place in zip(list(NAMES.values())[:3], _PLACES, strict=True)
  ),
)

if __name__ == "__main__":
  sys.exit(study_runner.main(STUDY, __doc__))
