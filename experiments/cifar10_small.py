"""Does predicting rotations help? The `small` CIFAR-10 recipes, three seeds.

  python experiments/cifar10_small.py --data-dir=/data/tfds
  python experiments/cifar10_small.py --data-dir=/data/tfds --collect-only

Runs E-SimSiam, E-SimCLR and their baselines at `:small` (5,000 images, 4
epochs, ResNet-18 of width 16; minutes each on 2 CPU cores), skipping cells that
are finished and resuming those that are not, writes
`experiments/results/cifar10_small.json` and prints a Markdown table.
"""

import argparse
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results" / "cifar10_small.json"
RECIPES = ("cifar_simclr", "cifar_simsiam")
VARIANTS = ("", "baseline")
NAMES = {
  ("cifar_simclr", ""): "E-SimCLR",
  ("cifar_simclr", "baseline"): "SimCLR",
  ("cifar_simsiam", ""): "E-SimSiam",
  ("cifar_simsiam", "baseline"): "SimSiam",
}


def run_cell(
  recipe: str, variant: str, seed: int, data_dir: str | None, workdir: str
) -> None:
  """Trains one cell unless its results are there."""
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
  ]
  if data_dir:
    command.append(f"--config.data.dir={data_dir}")
  subprocess.run(command, check=True, cwd=ROOT)


def read_cell(recipe: str, variant: str, seed: int, path: pathlib.Path) -> Any:
  """The figures of one finished cell, or None."""
  if not path.exists():
    return None
  results = json.loads(path.read_text())
  figures = results["figures"]
  transformation = figures.get("transformation", {})
  return {
    "name": NAMES[recipe, variant],
    "config": f"configs/{recipe}.py:small{',' if variant else ''}{variant}",
    "seed": seed,
    "knn_top1_untrained": results["untrained"]["knn_top1"],
    "knn_top1": figures["knn"]["knn_top1"],
    "linear_top1": figures["linear_probe"]["linear_top1"],
    "rotation_accuracy": transformation.get("transformation_accuracy"),
    "wall_seconds": results["training"]["wall_seconds"],
    "source_images_per_second": results["training"]["source_images_per_second"],
    "environment": results["environment"],
    "protocol": {"knn": figures["knn"], "probe": figures["linear_probe"]},
  }


def table(cells: list[dict[str, Any]]) -> str:
  """Mean and sample standard deviation over seeds, as Markdown."""
  lines = [
    "| method | seeds | kNN untrained | kNN | linear probe | rotation |",
    "|---|---|---|---|---|---|",
  ]
  columns = ("knn_top1_untrained", "knn_top1", "linear_top1")
  for name in NAMES.values():
    rows = [cell for cell in cells if cell["name"] == name]
    if not rows:
      continue
    texts = [_spread([row[column] for row in rows]) for column in columns]
    found = [row["rotation_accuracy"] for row in rows]
    texts.append(_spread(found) if None not in found else "–")
    lines.append(f"| {name} | {len(rows)} | " + " | ".join(texts) + " |")
  return "\n".join(lines)


def _spread(values: list[float]) -> str:
  if len(values) == 1:
    return f"{values[0]:.2f}"
  return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


def main() -> None:
  """Runs what is missing, collects, prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--data-dir", help="a TFDS directory with cifar10")
  parser.add_argument("--workdirs", default="runs/cifar10_small")
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  parser.add_argument("--collect-only", action="store_true")
  parser.add_argument("--note", default="", help="kept with the results")
  arguments = parser.parse_args()

  cells, missing = [], []
  for seed, recipe, variant in itertools.product(
    arguments.seeds, RECIPES, VARIANTS
  ):
    name = f"{recipe}{'-' if variant else ''}{variant}-seed{seed}"
    workdir = pathlib.Path(arguments.workdirs).absolute() / name
    if not arguments.collect_only:
      run_cell(recipe, variant, seed, arguments.data_dir, str(workdir))
    cell = read_cell(recipe, variant, seed, workdir / "results.json")
    if cell is None:
      missing.append(name)
    else:
      cells.append(cell)
  RESULTS.parent.mkdir(exist_ok=True)
  RESULTS.write_text(
    json.dumps({"note": arguments.note, "cells": cells}, indent=1) + "\n"
  )
  print(table(cells))
  if missing:
    print("missing:", ", ".join(missing))


if __name__ == "__main__":
  main()
