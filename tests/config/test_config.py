"""Configs: parsing, refusals, and that every recipe is a valid one."""

import dataclasses
import importlib.util
import pathlib

import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax.config import variants
from essl_jax.errors import UsageError
from essl_jax.evaluation import probe as probe_lib
from essl_jax.training import networks as networks_lib
from essl_jax.training import parameter_groups

pytestmark = pytest.mark.quick

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))


def _load(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


CASES = [
  pytest.param(path, variant, id=f"{path.stem}:{variant}")
  for path in CONFIGS
  for variant in ["", *_load(path).VARIANTS]
]


@pytest.mark.parametrize(("path", "variant"), CASES)
def test_every_recipe_is_valid(path, variant):
  raw = _load(path).get_config(variant)
  config = config_lib.parse(raw.to_dict())
  networks_lib.check_parts(config)
  plain = ("baseline", "simclr", "transform", "supervised")
  is_plain = all(term.weight == 0 for term in config_lib.terms(config))
  assert is_plain == (variant in plain)
  assert (config.epochs == 0) == (variant == "supervised")


@pytest.mark.parametrize(
  ("method", "weight", "batch", "peaks"),
  [
    ("simclr", 0.4, 4096, (4.8, 4.8)),
    ("barlow_twins", 8.0, 4096, (3.2, 0.0768)),
    ("simsiam", 0.08, 512, (0.1, 0.1)),
  ],
)
def test_imagenet_recipes_are_the_papers(method, weight, batch, peaks):
  path = next(path for path in CONFIGS if path.stem == f"imagenet_{method}")
  recipe = _load(path).get_config
  config = config_lib.parse(recipe("epochs=300,scale=large").to_dict())
  assert (config.method, config.epochs) == (method, 300)
  assert config.batch_size == batch
  assert config.equivariance.weight == weight
  assert config.views.third.scale == (0.08, 1.0)
  groups = parameter_groups.make(config, 312)
  actual = [groups[name].peak for name in ("weights", "biases")]
  np.testing.assert_allclose(actual, peaks)
  assert config_lib.parse(recipe().to_dict()).views.third.scale == (0.05, 0.14)
  probe = config.probe
  assert (config.data.resize_size, config.data.image_size) == (256, 224)
  assert (probe.momentum, probe.update_rate_every) == (0.9, "epoch")
  assert (
    probe.optimizer,
    probe.learning_rate,
    probe.batch_size,
    probe.epochs,
    probe.weight_decay,
  ) == (
    ("lars", 0.1 * 4096 / 256, 4096, 90, 0.0)
    if method == "simsiam"
    else ("sgd", 0.3, 256, 100, 1e-6)
  )
  with pytest.raises(UsageError, match="exclude each other"):
    recipe("epochs=100,epochs=200")


@pytest.mark.parametrize(
  ("stem", "method", "weight", "rate"),
  [
    ("cifar_simclr", "simclr", 0.4, 0.06),
    ("cifar_simclr:baseline", "simclr", 0.0, 0.03),
    ("cifar_simsiam", "simsiam", 0.4, 0.06),
    ("cifar_simsiam:baseline", "simsiam", 0.0, 0.03),
  ],
)
def test_cifar_recipes_are_the_papers(stem, method, weight, rate):
  name, _, variant = stem.partition(":")
  path = next(path for path in CONFIGS if path.stem == name)
  config = config_lib.parse(_load(path).get_config(variant).to_dict())
  assert config.method == method
  assert (config.epochs, config.batch_size) == (800, 512)
  assert config.equivariance.weight == weight
  assert config.optimizer == config_lib.Optimizer(
    learning_rate=rate, weight_decay=5e-4, momentum=0.9, warmup_epochs=10
  )
  views = config.views
  assert [v.size for v in (views.first, views.second, views.third)] == [
    32,
    32,
    16,
  ]
  assert views.first.jitter == (0.4, 0.4, 0.4, 0.1)
  assert dataclasses.replace(views.third, size=32) == views.first
  assert config.projector.widths == (2048, 2048)
  assert config.projector.last_norm == "batch_not_affine"
  # In the SimSiam recipe the head's second ReLU is absent.
  assert config.equivariance.last_hidden_relu == (method == "simclr")
  own = {"simclr": "temperature", "simsiam": "predictor_hidden"}
  there = {name: hasattr(config, field) for name, field in own.items()}
  assert there == {name: name == method for name in own}
  expected = {"simclr": 0.5, "simsiam": 512}[method]
  assert getattr(config, own[method]) == expected
  assert (config.knn.ks, config.knn.temperature) == ((200,), 0.1)
  assert config.probe == probe_lib.Probe(
    "paper", 5, 100, 256, 30.0, resize_size=36
  )


def test_k_is_one_number_or_several():
  for k, expected in ((7, (7,)), ([7, 9], (7, 9)), ((200, 20), (200, 20))):
    assert config_lib.parse(_raw(knn={"k": k})).knn.ks == expected


def _raw(**changes):
  raw = {
    "method": "simclr",
    "temperature": 0.5,
    "data": {"name": "digits"},
    "views": {name: {"size": 8} for name in ("first", "second", "third")},
  }
  return raw | changes


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({"batchsize": 3}, "no field config.batchsize .did you mean batch_size"),
    ({"optimizer": {"lr": 1.0}}, "no field config.optimizer.lr"),
    ({"epochs": "many"}, "config.epochs must be int, got 'many'"),
    ({"epochs": True}, "config.epochs must be int, got True"),
    ({"epochs": -1}, "config.epochs must be at least 0; got -1"),
    ({"epochs": 0}, "warmup_epochs .10. must be below config.epochs .0."),
    ({"epochs": 10}, "warmup_epochs .10. must be below config.epochs .10."),
    ({"mode": "test"}, "config.mode must be one of train, evaluate"),
    ({"data": {}}, "config.data.name is missing"),
    ({"data": "digits"}, "config.data must be a group of fields"),
    ({"temperature": 0.0}, "config.temperature must be above 0"),
    ({"equivariance": {"weight": -0.5}}, "must be at least 0; got -0.5"),
    ({"equivariance": {"weight": float("nan")}}, "a finite number; got nan"),
    ({"encoder": {"depth": 20}}, "config.encoder.depth must be one of 18, 34"),
    ({"projector": {"widths": 8}}, "config.projector.widths must be a tuple"),
    ({"views": {"first": {"size": 0}}}, "config.views.first"),
    ({"knn": {"k": (20, 0)}}, r"config.knn.k must be at least 1; .*\(20, 0\)"),
    (
      {"knn": {"k": ()}},
      r"knn.k: the number of values must be at least 1; got ..",
    ),
    ({"seed": 2**32}, "config.seed must be below 4294967296; got 4294967296"),
    ({"knn": {"k": "many"}}, "config.knn.k must be int, got 'many'"),
    ({"probe": {"optimizer": "adam"}}, "must be one of sgd, lars; got 'adam'"),
    (
      {"finetune": {"labels": 1.5}},
      "config.finetune.labels must be at most 1; got 1.5",
    ),
    (
      {"finetune": {"labels": 0.0}},
      "config.finetune.labels must be above 0; got 0.0",
    ),
  ],
)
def test_refusals_name_the_field(changes, expected):
  with pytest.raises(UsageError, match=expected) as error:
    config_lib.parse(_raw(**changes))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    (
      {"method": "byoll"},
      "unknown config.method 'byoll'; there are: barlow_twins, byol, dino,",
    ),
    ({"temperature": None}, "config.temperature must be float, got None"),
    ({"predictor_hidden": 8}, "does not read config.predictor_hidden"),
    ({"equivariance": {"group": "shear"}}, "there are: rotation"),
    ({"evaluations": ("knn",), "probe": {"epochs": 3}}, "config.probe belongs"),
    ({"optimizer": {"beta2": 0.9}}, "sgd does not read config.optimizer.beta2"),
    ({"optimizer": {"clip_rate": True}}, "sgd does not read .*clip_rate"),
    (
      {"optimizer": {"clip_each_array": True}},
      "unset optimizer.clip_gradients",
    ),
    (
      {"optimizer": {"warmup_from": 0.1, "warmup_epochs": 0}},
      "warmup_epochs=0 does not read config.optimizer.warmup_from",
    ),
    ({"terms": ("prediction",) * 2}, "config.terms lists a part twice"),
  ],
)
def test_what_no_part_reads_is_refused(changes, expected):
  with pytest.raises(UsageError, match=expected) as error:
    networks_lib.check_parts(config_lib.parse(_raw(**changes)))
  assert "\n" not in str(error.value)


def test_defaults_of_parts_that_are_not_chosen_are_dropped():
  """`base` writes them before a recipe chooses another part."""
  recipe = config_lib.base(method="simsiam", data="digits")
  recipe.method, recipe.terms = "barlow_twins", ()
  config = config_lib.parse(recipe.to_dict())
  assert not hasattr(config, "predictor_hidden")
  assert not hasattr(config, "equivariance")
  assert not hasattr(config.views, "third")
  recipe.views.third.size = 16
  with pytest.raises(UsageError, match="views.third belongs to no part of"):
    config_lib.parse(recipe.to_dict())


def test_variants():
  allowed = {"baseline": "plain", "small": "quick"}
  assert variants("small, baseline", allowed) == {
    "small",
    "baseline",
  }
  assert variants(None, allowed) == frozenset()
  with pytest.raises(UsageError, match=r"'big'; there are: baseline \(plain\)"):
    variants("big", allowed)


def test_a_part_of_a_group_keeps_the_defaults_of_its_owner():
  """Barlow Twins' projector has no last norm, whatever widths are set."""
  raw = _raw(method="barlow_twins", projector={"widths": (8, 8)})
  del raw["temperature"]
  projector = config_lib.parse(raw).projector
  assert (projector.widths, projector.last_norm) == ((8, 8), "none")
