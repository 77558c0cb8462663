"""Configs: parsing, refusals, and that every recipe is a valid one."""

import dataclasses
import importlib.util
import pathlib

import numpy as np
import photonics_helpers
import pytest

from essl_jax import config as config_lib
from essl_jax import config_data, methods
from essl_jax import run as train
from essl_jax.config import variants
from essl_jax.data import arrays
from essl_jax.errors import UsageError
from essl_jax.photonics import source as source_lib
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import parameter_groups

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


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
  methods.check(config)
  plain = ("baseline", "simclr", "transform", "supervised")
  assert (config.equivariance.weight == 0) == (variant in plain)
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
  assert config.temperature == (0.5 if method == "simclr" else None)
  assert config.predictor_hidden == (None if method == "simclr" else 512)
  assert (config.knn.ks, config.knn.temperature) == ((200,), 0.1)
  assert config.probe == config_lib.Probe(
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
    ({"epochs": 0}, "config.epochs must be at least 1; got 0"),
    ({"epochs": 10}, "warmup_epochs .10. must be below config.epochs .10."),
    ({"mode": "test"}, "config.mode must be one of train, evaluate"),
    ({"data": {}}, "config.data.name is missing"),
    ({"data": "digits"}, "config.data must hold fields"),
    ({"temperature": 0.0}, "config.temperature must be above 0"),
    ({"equivariance": {"weight": -0.5}}, "must be at least 0; got -0.5"),
    ({"equivariance": {"weight": float("nan")}}, "at least 0; got nan"),
    ({"encoder": {"depth": 20}}, "config.encoder.depth must be one of 18, 34"),
    ({"projector": {"widths": 8}}, "config.projector.widths must be a tuple"),
    ({"views": {"first": {"size": 0}}}, "config.views.first"),
    ({"knn": {"k": (20, 0)}}, r"config.knn.k must be at least 1; .*\(20, 0\)"),
    ({"knn": {"k": ()}}, r"config.knn.k must be at least 1; got \(\)"),
    ({"knn": {"k": "many"}}, "config.knn.k must be int, got 'many'"),
    ({"probe": {"optimizer": "adam"}}, "must be one of sgd, lars; got 'adam'"),
    (
      {"finetune": {"labels": 1.5}},
      "finetune.labels must be a part .* got 1.5",
    ),
    (
      {"finetune": {"labels": 0.0}},
      "finetune.labels must be a part .* got 0.0",
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
    ({"method": "byol"}, "unknown config.method 'byol'; there are: simclr"),
    ({"temperature": None}, "method simclr needs config.temperature"),
    ({"predictor_hidden": 8}, "does not read config.predictor_hidden"),
    ({"equivariance": {"group": "shear"}}, "there are: rotation"),
  ],
)
def test_methods_refuse_what_they_do_not_read(changes, expected):
  with pytest.raises(UsageError, match=expected):
    methods.check(config_lib.parse(_raw(**changes)))


def test_variants():
  allowed = {"baseline": "plain", "small": "quick"}
  assert variants("small, baseline", allowed) == {
    "small",
    "baseline",
  }
  assert variants(None, allowed) == frozenset()
  with pytest.raises(UsageError, match=r"'big'; there are: baseline \(plain\)"):
    variants("big", allowed)


def test_every_field_is_read(monkeypatch, tmp_path, tiny_config):
  """A field that nobody reads would silently do nothing."""
  read = set()
  kinds = [config_lib.Config]
  kinds += [
    kind
    for kind in vars(config_lib).values()
    if dataclasses.is_dataclass(kind) and kind is not config_lib.Config
  ]
  for kind in kinds:

    def get(self, name, kind=kind, plain=kind.__getattribute__):
      read.add((kind.__name__, name))
      return plain(self, name)

    monkeypatch.setattr(kind, "__getattribute__", get)

  random = np.random.default_rng(0)
  images = random.integers(0, 256, (32, 16, 16, 3), np.uint8)
  labels = np.arange(32) % 4
  source = arrays.ArraySource(images, labels, images, labels)

  def make_source(*args, **kwargs):
    return source

  monkeypatch.setattr(experiment_lib.data, "make_source", make_source)
  config = tiny_config("simsiam")
  read.clear()  # what `parse` itself looked at does not count
  monkeypatch.setattr(config_lib, "to_dict", lambda config: {})
  train.run(config, tmp_path)
  few = config_lib.Finetune(labels=0.5, epochs=1, batch_size=16)
  train.run(
    dataclasses.replace(config, mode="finetune", finetune=few), tmp_path
  )
  sizes = {"unlabelled": 16, "train": 8, "validation": 3, "test": 3}
  photonics_helpers.stand_in(monkeypatch, sizes)
  made = source_lib.open_cells(
    str(tmp_path / "cells"),
    "unlabelled",
    "test",
    config_data.Generate("blob", 14, 16),
  )
  monkeypatch.setattr(experiment_lib.data, "make_source", lambda *_, **__: made)
  fields = photonics_helpers.raw_config(epochs=0)
  fields["regression"] |= {"labelled": (8,), "repetitions": 1, "epochs": 1}
  train.run(config_lib.parse(fields), tmp_path / "photonics")
  wanted = {
    (kind.__name__, field.name)
    for kind in kinds
    for field in dataclasses.fields(kind)
  }
  assert wanted - read == set()
