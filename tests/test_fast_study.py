"""The study of time to accuracy: equal budgets, and what a run has cost."""

import pathlib
import runpy

import fast_study
import pytest
from study_helpers import results

from essl_jax import config as config_lib

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def _recipe(stem, variant="", **changes):
  recipe = runpy.run_path(str(CONFIGS / f"{stem}.py"))["get_config"](variant)
  recipe.update(changes)
  return config_lib.parse(recipe.to_dict())


@pytest.mark.parametrize("scale", ["full", "small"])
def test_budgets_are_equal(scale):
  rows = fast_study.changes(scale)
  base = rows[fast_study.BASELINE]
  assert base.passes == 2 + 4 * 0.25
  budget = fast_study.epochs(base, scale) * base.passes
  for change in rows.values():
    spent = fast_study.epochs(change, scale) * change.passes
    # To half an epoch.
    assert spent == pytest.approx(budget * change.budget, abs=change.passes / 2)


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
  assert change.passes == pytest.approx(fast_study.passes_per_image(config))


def test_cost_and_seconds_of_a_run():
  found = results(40.0, 0)
  found["training"] |= {"steps": 10, "source_images_per_second": 64.0}
  found["config"] = config_lib.to_dict(_recipe("cifar_simclr", batch_size=32))
  figures, _ = fast_study.read(found)
  assert figures["knn_top1"] == 40.0
  assert figures["passes"] == pytest.approx(320 * 3 / 1e6)
  assert figures["seconds"] == 5.0
  found["training"]["source_images_per_second"] = None
  assert fast_study.read(found)[0]["seconds"] is None
