"""Configs of photonic crystals: the recipes, refusals and warnings."""

import pathlib
import runpy

import photonics_helpers
import pytest

from essl_jax import config as config_lib
from essl_jax import methods
from essl_jax.errors import UsageError
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import parameter_groups

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    (
      {"encoder": {"name": "vgg"}},
      "model.name must be one of resnet, photonic",
    ),
    (
      {"encoder": {"name": "photonic_cnn", "depth": 50}},
      "model.name=photonic_cnn does not read config.encoder.depth: leave",
    ),
    ({"knn": {"k": 5}}, "data.name=photonics does not read config.knn: leave"),
    ({"evaluate_checkpoint": "best"}, "does not read config.evaluate_check"),
    ({"mode": "finetune"}, "config.mode=finetune is for classes"),
    ({"regression": {"labelled": ()}}, "config.regression.labelled must be"),
    ({"regression": {"learning_rate": 0.0}}, "learning_rate must be above 0"),
    ({"data": {"name": "digits"}}, "digits does not read config.regression"),
  ],
)
def test_photonics_refuses_what_it_does_not_read(changes, expected):
  with pytest.raises(UsageError, match=expected) as error:
    config_lib.parse(photonics_helpers.raw_config(**changes))
  assert "\n" not in str(error.value)


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
    methods.check(rolls)
  raw = photonics_helpers.raw_config()
  view = raw["views"]["first"]
  for changes, expected in (
    ({"mean": (0.5,) * 3, "std": (1.0,) * 3}, "config.views.first: mean="),
    ({"grayscale": 0.2}, "config.views.first: .* change colours"),
    ({"size": 16}, "photonic_cnn sees 32 x 32 .* has 16 x 16 of 1"),
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
    assert config.regression == config_lib.Regression()
    peaks = parameter_groups.make(config, 4)["weights"]
    assert (peaks.peak, peaks.weight_decay, peaks.momentum) == (1e-3, 0.0, 0.9)
    with pytest.raises(UsageError, match="simclr and transform exclude each"):
      parse("simclr,transform")
