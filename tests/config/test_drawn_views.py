"""Small views that nothing draws, or that are not small."""

import pathlib
import types

import pytest

from essl_jax import config as config_lib
from essl_jax.augment import View
from essl_jax.config import flags
from essl_jax.errors import UsageError
from essl_jax.training import view_checks, warnings

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def test_flags_of_small_views_that_are_not_drawn_are_refused():
  """Whatever the field and its value, for the user has set it."""
  recipe = str(CONFIGS / "cifar_simclr.py")
  scale = "--config.views.small.scale=0.05,0.4"
  with pytest.raises(UsageError, match=r"small\.scale: .* config\.small_views"):
    flags.load(recipe, [scale])
  config = flags.load(recipe, [scale, "--config.small_views=2"])
  assert config.views.small.scale == (0.05, 0.4)


def test_small_views_as_large_as_the_first_are_warned_of(tiny_config):
  def find(size):
    views = {"first": {"size": 16}, "small": {"size": size}}
    config = tiny_config("simclr", small_views=2, views=views)
    return warnings.find(config, [config_lib.method(config)])

  assert not find(8)
  (line,) = find(16)
  assert line.startswith("config.views.small of 16 pixels is drawn 2 times")


@pytest.mark.parametrize("flag", ["small_views=0", "method=simclr"])
def test_small_views_of_a_recipe_are_left_out_by_flags(flag):
  """The size and scale that the recipe gives them are then no mistake."""
  recipe = str(CONFIGS / "imagenet_dino.py")
  config = flags.load(recipe, [f"--config.{flag}"])
  assert config.small_views == 0
  assert config.views.small == View()


def test_the_extra_group_has_to_fit_small_views(tiny_config):
  """Those of a method undergo it too."""

  def check(size):
    views = {name: {"size": 16} for name in ("first", "second")}
    views |= {"small": {"size": size}, "extra": "jigsaw"}
    config = tiny_config("simclr", small_views=2, views=views)
    source = types.SimpleNamespace(differs_in_size=False, image_shape=(8, 8, 3))
    networks = types.SimpleNamespace(terms=())
    experiment = types.SimpleNamespace(
      config=config,
      mesh=types.SimpleNamespace(size=1),
      source=source,
      parts=[config_lib.method(config)],
      networks=networks,
    )
    view_checks.check(experiment)

  check(8)
  with pytest.raises(UsageError, match=r"config\.views\.small, jigsaw"):
    check(7)
