"""The study of time to accuracy: equal budgets, and what a run has cost."""

import pathlib
import runpy

import fast_study
from matplotlib import figure as figure_lib
import pytest
from study_helpers import results

from essl_jax import config as config_lib

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def _recipe(stem, variant="", **changes):
  recipe = runpy.run_path(str(CONFIGS / f"{stem}.py"))["get_config"](variant)
  recipe.update(changes)
  return config_lib.parse(recipe.to_dict())


@pytest.mark.parametrize(("scale", "error"), [("full", 0.01), ("small", 0.1)])
def test_budgets_are_equal(scale, error):
  rows = fast_study.changes(scale)
  base = rows[fast_study.BASELINE]
  assert base.passes(10) == 10 * (2 + 4 * 0.25)
  budget = base.passes(fast_study.epochs(base, scale))
  for change in rows.values():
    spent = change.passes(fast_study.epochs(change, scale))
    # Epochs are whole, and at `small` they are few.
    assert spent == pytest.approx(budget * change.budget, rel=error)


@pytest.mark.parametrize(
  ("stem", "variant", "expected"),
  [
    ("cifar_simclr", "", 3.0),
    ("cifar_simclr", "baseline", 2.0),
    ("cifar_fast", "", 2.25 * (0.4 * 0.25 + 0.3 * 0.5625 + 0.3)),
    ("cifar_fast", "baseline", 2 * (0.4 * 0.25 + 0.3 * 0.5625 + 0.3)),
  ],
)
def test_passes_are_those_by_hand(stem, variant, expected):
  config = _recipe(stem, variant)
  assert fast_study.passes_per_image(config) == pytest.approx(expected)


def test_the_last_row_declares_what_its_recipe_costs():
  change = fast_study.changes("full")[fast_study.FAST]
  config = _recipe("cifar_fast")
  assert config.views.resolution == fast_study.STAGES
  passes = fast_study.passes_per_image(config)
  assert change.passes(400) == pytest.approx(400 * passes)
  assert fast_study.epochs(change, "full") == pytest.approx(400, abs=2)


def test_cost_and_seconds_of_a_run():
  found = results(40.0, 0)
  found["training"] |= {"steps": 10, "source_images_per_second": 64.0}
  found["config"] = config_lib.to_dict(_recipe("cifar_simclr", batch_size=32))
  figures, _ = fast_study.read(found)
  assert figures["knn_top1"] == 40.0
  assert figures["passes"] == pytest.approx(320 * 3 / 1e3)
  assert figures["seconds"] == 5.0
  found["training"]["source_images_per_second"] = None
  assert fast_study.read(found)[0]["seconds"] is None


def test_the_figure_shows_what_is_finished():
  figures = {"knn_top1": 40.0, "passes": 60.0, "seconds": None}
  record = {"row": fast_study.FAST, "seed": 0, "figures": figures}
  figure = figure_lib.Figure()
  fast_study.draw(figure, [record])
  by_passes, by_seconds = figure.axes
  labels = lambda axes: [
    x.get_label() for x in axes.lines if len(x.get_xdata())
  ]
  assert (labels(by_passes), labels(by_seconds)) == ([fast_study.FAST], [])
