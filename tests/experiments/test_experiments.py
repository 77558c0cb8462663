"""Studies of this repository: their cells, tables, figures."""

import importlib
import pathlib

import pytest
import study
from study_helpers import make_options, results
import study_report
import study_runner

from essl_jax.config import flags
from essl_jax.training import networks

SCRIPTS = (
  "ablations",
  "cifar10_table",
  "equivariance_table",
  "fast_study",
  "flowers_table",
  "imagenet_table",
  "lambda_sweep",
  "photonics_table",
  "transformation_study",
)
STUDIES = {name: importlib.import_module(name).STUDY for name in SCRIPTS}


def _parse(words):
  """The config that the program makes of its words."""
  recipe, *rest = words[3:]
  overrides = [word for word in rest if flags.is_flag(word)]
  assert [x for x in rest if x not in overrides] == rest[-1:]
  assert rest[-1].startswith("--workdir=")
  config = flags.load(recipe.removeprefix("--config="), overrides)
  networks.check_parts(config)
  return config


@pytest.mark.parametrize(
  ("script", "scale"),
  [(name, scale) for name, x in STUDIES.items() for scale in x.captions],
)
def test_cells_are_configs(script, scale, tmp_path, monkeypatch):
  monkeypatch.chdir(study.ROOT)
  chosen = STUDIES[script]
  options = make_options(tmp_path, chosen, f"--scale={scale}")
  cells = study.list_cells(chosen, options, [3])
  assert len({cell.name for cell in cells}) == len(cells) > 0
  assert len({cell.row for cell in cells}) == len(cells)
  seen = {}
  for cell in cells:
    config = _parse(study.command(cell, options))
    assert config.seed == 3
    # Every cell computes something else.
    assert seen.setdefault(config, cell.name) == cell.name
  assert chosen.seeds[scale] and chosen.captions[scale]
  rows = {cell.row for cell in chosen.cells("full", [0])}
  assert {x.row for x in chosen.quoted} <= rows
  assert not chosen.baseline or chosen.baseline in rows


def test_committed_results_are_of_their_cells():
  found = set()
  for chosen in STUDIES.values():
    for scale in chosen.captions:
      options = study_runner.parse(chosen, "", [f"--scale={scale}"])
      there = {path.stem for path in options.results.glob("*-seed*.json")}
      cells = study.known_cells(chosen, options)
      assert there <= {cell.name for cell in cells}
      for cell in cells:
        if cell.name in there:
          study.load(chosen, cell, options)  # refuses those of other flags
          found.add((chosen.name, cell.row))
  assert len(found) > 40


def test_a_cell_of_terms_is_read_in_percent():
  read = STUDIES["equivariance_table"].read
  told = {"crop_r2": 0.25, "blur_r2": -0.5, "rotation_accuracy": 31.0}
  figures = {
    "knn": {"knn_top1": 50.0},
    "symmetry": {"rotation": {"readout_accuracy": 70.0}},
    "parameters": {
      "all": told,
      "jittered": {"color_r2": 0.125},
      "untrained": {"all": {"crop_r2": 0.0}, "jittered": {}},
    },
  }
  found, protocol = read({"figures": figures, "untrained": {"knn_top1": 20.0}})
  given = {name: x for name, x in found.items() if x is not None}
  assert given == {
    "knn_top1": 50.0,
    "knn_top1_untrained": 20.0,
    "crop_r2": 25.0,
    "crop_r2_untrained": 0.0,
    "color_r2_jittered": 12.5,
    "blur_r2": -50.0,
    "rotation": 31.0,
    "readout": 70.0,
  }
  assert set(STUDIES["equivariance_table"].columns) <= set(found)
  assert protocol["parameters"] is figures["parameters"]
  figures["ranks"] = {"sie": {"mrr": 0.5}}
  assert read({"figures": figures, "untrained": {}})[0]["mrr"] == 50.0


def test_names_are_those_of_earlier_workdirs():
  names = [x.name for x in STUDIES["cifar10_table"].cells("small", [2])]
  assert "cifar_simclr-seed2" in names
  assert "cifar_simclr-baseline-seed2" in names
  photonics = STUDIES["photonics_table"]
  names = {x.name for x in photonics.cells("small", [0])}
  assert "photonics_blob-seed0" in names
  assert "photonics_gpm-transform-seed0" in names
  options = study_runner.parse(photonics, "", [])
  assert options.workdirs == pathlib.Path("runs/photonics_small").absolute()
  long = STUDIES["imagenet_table"].cells("full", [0])
  assert "imagenet_simclr-epochs800-scalesmall-seed0" in [x.name for x in long]


def test_spread_and_changes_are_those_by_hand():
  record = lambda row, seed, x: {"row": row, "seed": seed, "figures": {"a": x}}
  records = [
    record("ours", 0, 3.0),
    record("ours", 1, 5.0),
    record("ours", 2, 10.0),
    record("base", 1, 1.0),
    record("base", 0, 2.0),
    record("base", 3, 9.0),
  ]
  assert study_report.spread([1.0, 2.0, 4.0]) == "2.33 ± 1.53"
  assert study_report.spread([2.0]) == "2.00"
  assert study_report.spread([2.0, None]) == study_report.spread([]) == "–"
  assert study_report.changes(records, "ours", "base", "a") == [1.0, 4.0]
  assert study_report.changes(records, "ours", "base", "b") == []
  mean, deviation = study_report.mean_and_deviation([3.0, 5.0, 10.0])
  assert (mean, deviation) == (6.0, pytest.approx(13**0.5))


@pytest.mark.parametrize(
  ("script", "scale"),
  [*((script, "full") for script in SCRIPTS), ("imagenet_table", "small")],
)
def test_every_study_draws_and_quotes(script, scale, tmp_path):
  chosen = STUDIES[script]
  options = make_options(tmp_path, chosen, f"--scale={scale}")
  cells = study.list_cells(chosen, options, [0, 1])
  sample = {"frequencies": [0.0, 1.0], "true": [[1, 2]], "predicted": [[2, 1]]}
  figures = dict.fromkeys(chosen.columns, 40.0) | {"samples": sample}
  records = [
    {
      "row": cell.row,
      "seed": cell.seed,
      "figures": figures,
      "environment": results(0.0, 0)["environment"],
      "wall_seconds": 2.0,
      "note": "by hand",
    }
    for cell in cells[:-1]  # the last cell is not finished
  ]
  options.results.mkdir(parents=True)
  rows = list(dict.fromkeys(cell.row for cell in cells))
  text = study_report.write(chosen, options, rows, records)
  assert (options.results / "figure.pdf").read_bytes()[:4] == b"%PDF"
  lines = [line for line in text.splitlines() if line.startswith("| ")]
  assert [line.split(" | ")[1] for line in lines[1:]] == ["2"] * (
    len(rows) - 1
  ) + ["1"]
  assert len({line.count("|") for line in lines}) == 1
  for quoted in chosen.quoted if scale == "full" else ():
    (line,) = [x for x in lines if x.startswith(f"| {quoted.row} |")]
    assert quoted.text in line
  assert "Commit: abcdef0." in text and text.endswith("by hand")
