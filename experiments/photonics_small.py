"""Does predicting a symmetry help a regression? Photonic crystals in small.

  python experiments/photonics_small.py
  python experiments/photonics_small.py --collect-only

Runs E-SimCLR, SimCLR, SimCLR + transform and the supervised regressor at
`:small` for both kinds of cells and three seeds (minutes each on 2 CPU cores;
the first run of a kind makes its cells), skipping cells of the table that are
finished and resuming those that are not. Writes
`experiments/results/photonics_small.json` and `photonics_small.png`, and prints
a Markdown table.
"""

import argparse
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
RECIPES = ("photonics_blob", "photonics_gpm")
NAMES = {
  "": "E-SimCLR",
  "simclr": "SimCLR",
  "transform": "SimCLR + transform",
  "supervised": "supervised",
}
_SHOWN = 4  # cells whose densities are drawn


def run_cell(
  recipe: str, variant: str, seed: int, workdir: str, flags: list[str]
) -> None:
  """Trains one cell of the table unless its results are there."""
  if pathlib.Path(workdir, "results.json").exists():
    return
  suffix = f",{variant}" if variant else ""
  command = [
    sys.executable,
    "-m",
    "essl_jax.main",
    f"--config={ROOT}/configs/{recipe}.py:small{suffix}",
    f"--config.seed={seed}",
    f"--workdir={workdir}",
    *flags,
  ]
  subprocess.run(command, check=True, cwd=ROOT)


def read_cell(recipe: str, variant: str, seed: int, path: pathlib.Path) -> Any:
  """The figures of one finished cell of the table, or None."""
  if not path.exists():
    return None
  results = json.loads(path.read_text())
  figures = results["figures"]
  ((labelled, found),) = figures["regression"]["by_labelled"].items()
  transformation = figures.get("transformation", {})
  return {
    "name": NAMES[variant],
    "recipe": recipe,
    "config": f"configs/{recipe}.py:small{',' if variant else ''}{variant}",
    "seed": seed,
    "labelled": int(labelled),
    **found,
    "recognised": transformation.get("transformation_accuracy"),
    "wall_seconds": results["training"].get("wall_seconds"),
    "samples": figures["regression"]["samples"],
    "environment": results["environment"],
    "protocol": {
      name: value
      for name, value in figures["regression"].items()
      if name not in ("by_labelled", "samples")
    },
  }


def table(cells: list[dict[str, Any]]) -> str:
  """Mean and sample standard deviation over pre-training seeds, Markdown."""
  lines = [
    "| cells | method | seeds | DOS error | minimum over test | recognised |",
    "|---|---|---|---|---|---|",
  ]
  for recipe, name in itertools.product(RECIPES, NAMES.values()):
    rows = [x for x in cells if (x["recipe"], x["name"]) == (recipe, name)]
    if not rows:
      continue
    texts = [
      _spread([row[column] for row in rows])
      for column in ("dos_error", "dos_error_minimum_over_test", "recognised")
    ]
    kind = recipe.partition("_")[2]
    lines.append(
      f"| {kind} | {name} | {len(rows)} | " + " | ".join(texts) + " |"
    )
  return "\n".join(lines)


def _spread(values: list[Any]) -> str:
  if None in values:
    return "–"
  if len(values) == 1:
    return f"{values[0]:.2f}"
  return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


def draw(cells: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Errors as bars, and true and predicted densities of a few test cells."""
  from matplotlib import figure as figure_lib

  figure = figure_lib.Figure(figsize=(15, 8), layout="constrained")
  grid = figure.subplots(len(RECIPES), _SHOWN + 1, squeeze=False)
  for recipe, axes in zip(RECIPES, grid, strict=True):
    rows = [cell for cell in cells if cell["recipe"] == recipe]
    _draw_bars(axes[0], recipe, rows)
    for number, one in enumerate(axes[1:]):
      _draw_densities(one, number, rows)
    axes[1].legend(fontsize=7)
  figure.savefig(path, dpi=110)


def _draw_bars(axes: Any, recipe: str, rows: list[dict[str, Any]]) -> None:
  for i, name in enumerate(NAMES.values()):
    errors = [row["dos_error"] for row in rows if row["name"] == name]
    if errors:
      spread = statistics.stdev(errors) if errors[1:] else 0
      axes.bar(i, statistics.fmean(errors), yerr=spread, color=f"C{i}")
      axes.plot([i] * len(errors), errors, "k.", markersize=4)
  axes.set_xticks(range(len(NAMES)), NAMES.values(), rotation=30, fontsize=7)
  axes.set_ylabel("DOS error (%)")
  axes.set_title(f"{recipe.partition('_')[2]}: error by method")


def _draw_densities(axes: Any, number: int, rows: list[dict[str, Any]]) -> None:
  for i, name in enumerate(NAMES.values()):
    found = [row for row in rows if row["name"] == name]
    if not found or number >= len(found[0]["samples"]["predicted"]):
      continue
    samples = found[0]["samples"]
    frequencies = np.asarray(samples["frequencies"])
    if not axes.lines:
      axes.plot(frequencies, samples["true"][number], "k", lw=2, label="true")
    predicted = samples["predicted"][number]
    axes.plot(frequencies, predicted, color=f"C{i}", lw=0.9, label=name)
  axes.set_title(f"test cell {number}")
  axes.set_xlabel(r"$\omega a / 2 \pi c$")


def main() -> None:
  """Runs what is missing, collects, draws, prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdirs", default="runs/photonics_small")
  parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  parser.add_argument("--collect-only", action="store_true")
  parser.add_argument("--note", default="", help="kept with the results")
  parser.add_argument(
    "--flag",
    action="append",
    default=[],
    help="handed to every run, such as --flag=--config.epochs=80",
  )
  arguments = parser.parse_args()

  cells, missing = [], []
  for seed, recipe, variant in itertools.product(
    arguments.seeds, RECIPES, NAMES
  ):
    name = f"{recipe}{'-' if variant else ''}{variant}-seed{seed}"
    workdir = pathlib.Path(arguments.workdirs).absolute() / name
    if not arguments.collect_only:
      run_cell(recipe, variant, seed, str(workdir), arguments.flag)
    cell = read_cell(recipe, variant, seed, workdir / "results.json")
    if cell is None:
      missing.append(name)
    else:
      cells.append(cell)
  arguments.results.mkdir(exist_ok=True, parents=True)
  path = arguments.results / "photonics_small.json"
  content = {"note": arguments.note, "flags": arguments.flag, "cells": cells}
  path.write_text(json.dumps(content) + "\n")
  draw(cells, path.with_suffix(".png"))
  print(table(cells))
  if missing:
    print("missing:", ", ".join(missing))


if __name__ == "__main__":
  main()
