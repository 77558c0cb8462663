"""Configs of photonic crystals: the recipes, refusals and warnings."""

import pathlib
import runpy

import photonics_helpers
import pytest

from essl_jax import config as config_lib
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.photonics import evaluation as evaluation_lib
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import networks as networks_lib
from essl_jax.training import parameter_groups

pytestmark = pytest.mark.quick

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    (
      {"encoder": {"name": "vgg"}},
      "unknown config.encoder.name 'vgg'; there are: photonics, resnet",
    ),
    (
      {"encoder": {"name": "photonics", "depth": 50}},
      "no field config.encoder.depth .*; there are: name, width",
    ),
    ({"knn": {"k": 5}}, "config.knn belongs to a part that config.evaluations"),
    (
      {"regression": {"labelled": ()}},
      "config.regression.labelled: the number of values must be at least 1",
    ),
    (
      {"regression": {"labelled": (8, 0)}},
      "labelled must be at least 1; got 0",
    ),
    ({"regression": {"learning_rate": 0.0}}, "learning_rate must be above 0"),
    (
      {"data": {"name": "digits", "generate": {"kind": "blob"}}},
      "there is no field config.data.generate; there are: cache_gib, dir, ",
    ),
  ],
)
def test_photonics_refuses_what_it_does_not_read(changes, expected):
  with pytest.raises(UsageError, match=expected) as error:
    config_lib.parse(photonics_helpers.raw_config(**changes))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({"evaluate_checkpoint": "best"}, "best needs an evaluation that ranks"),
    ({"mode": "finetune"}, "config.mode=finetune needs an evaluation of that"),
    ({"epochs": 0}, "transformation needs a trained .* config.epochs is 0"),
  ],
)
def test_photonics_refuses_what_no_evaluation_does(changes, expected):
  config = config_lib.parse(photonics_helpers.raw_config(**changes))
  experiment = experiment_lib.build(config, photonics_helpers.source())
  with pytest.raises(UsageError, match=expected) as error:
    bench_lib.make(experiment)
  assert "\n" not in str(error.value)


def test_a_regression_of_other_images_is_refused(tiny_config):
  experiment = experiment_lib.build(tiny_config("simclr"))
  bench = bench_lib.make(experiment)
  with pytest.raises(UsageError, match="data.name=digits has none: leave it"):
    evaluation_lib.Regression().check(bench)


def _photonics(first=(), third=(), **changes):
  raw = photonics_helpers.raw_config(**changes)
  raw["views"]["first"] = raw["views"]["first"] | {"groups": first}
  raw["views"]["third"] = raw["views"]["third"] | {"groups": third}
  return config_lib.parse(raw)


def test_a_group_predicted_and_applied_is_warned_of():
  build = lambda **views: experiment_lib.build(
    _photonics(**views), photonics_helpers.source()
  )
  group = ("half_translation",)
  assert build(first=("rotation", "flips"), third=("flips",)).warnings == []
  (warning,) = build(first=group).warnings
  assert "views.first.groups" in warning and "asks the encoder" in warning
  (warning,) = build(third=group).warnings
  assert "views.third.groups" in warning and "chance" in warning


def test_images_that_do_not_fit_the_network_are_refused():
  rolls = _photonics(equivariance={"group": "any_roll"})
  with pytest.raises(UsageError, match="any_roll has too many elements to"):
    networks_lib.check_parts(rolls)
  raw = photonics_helpers.raw_config()
  view = raw["views"]["first"]
  for changes, expected in (
    ({"mean": (0.5,) * 3, "std": (1.0,) * 3}, "config.views.first: mean="),
    ({"grayscale": 0.2}, "config.views.first: .* change colours"),
    (
      {"size": 16},
      "name=photonics, view first of 16 .* 32, 32, 1., got .* .2, 16, 16, 1.",
    ),
  ):
    raw["views"] = raw["views"] | {"first": view | changes}
    with pytest.raises(UsageError, match=expected):
      experiment_lib.build(config_lib.parse(raw), photonics_helpers.source())


def test_photonics_recipes_are_the_papers():
  for kind, invariances, group in (
    ("blob", ("flips", "rotation"), "half_translation"),
    ("gpm", ("any_roll", "flips"), "rotation"),
  ):
    recipe = runpy.run_path(str(CONFIGS / f"photonics_{kind}.py"))["get_config"]
    parse = lambda variant, recipe=recipe: config_lib.parse(
      recipe(variant).to_dict()
    )
    config = parse("")
    assert (config.epochs, config.batch_size) == (201, 256)
    assert (config.temperature, config.equivariance.weight) == (0.1, 5.0)
    assert config.equivariance.group == group
    assert config.views.first == config.views.second
    assert config.views.first.groups == invariances
    assert config.views.third.groups == ()
    assert parse("transform").views.first.groups == (*invariances, group)
    assert parse("supervised").regression == config.regression
    assert config.regression == evaluation_lib.Regression()
    peaks = parameter_groups.make(config, 4)["weights"]
    assert (peaks.peak, peaks.weight_decay, peaks.momentum) == (1e-3, 0.0, 0.9)
    with pytest.raises(UsageError, match="simclr and transform exclude each"):
      parse("simclr,transform")
