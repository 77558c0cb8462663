"""Recipes state differences alone; some run on stand-ins of a few images."""

import ast
import contextlib
import dataclasses
import pathlib
import re
import runpy
import sys

import data_helpers
import folder_helpers
import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax import data
from essl_jax.config import flags, recipes
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.storage import workdir
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import networks as networks_lib

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def _recipe(name, variant=""):
  made = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variant)
  config = config_lib.parse(made.to_dict())
  networks_lib.check_parts(config)
  return config


def _literals(source):
  """Line, field and value of every literal that a recipe sets."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Assign):
      pairs = [(ast.unparse(node.targets[0]), node.value)]
    elif isinstance(node, ast.Call):
      group = ast.unparse(node.func)
      groups = [group.removesuffix(".update")]
      if group == "update_views":
        groups = [f"config.views.{x}" for x in ("first", "second", "third")]
      pairs = [(f"{x}.{k.arg}", k.value) for x in groups for k in node.keywords]
    else:
      continue
    for field, value in pairs:
      if field.startswith("config."):
        with contextlib.suppress(ValueError):  # no literal
          yield node.lineno, field, ast.literal_eval(value)


RECIPES = sorted(path.stem for path in CONFIGS.glob("*.py"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_states_no_default(name):
  """But where a variant takes back what the recipe has set."""
  source = (CONFIGS / f"{name}.py").read_text(encoding="utf-8")
  known = workdir.dotted(config_lib.defaults(_recipe(name)), "config.")
  stated = {}
  for _, field, value in sorted(_literals(source), key=lambda x: x[0]):
    stated.setdefault(field, value)
  same = {k: x for k, x in stated.items() if k in known and known[k] == x}
  assert not same, f"{name} states defaults: {same}"


def test_what_a_recipe_states_is_found():
  source = """
config.epochs = 800
config.probe.update(epochs=5, repetitions=n)
update_views(config, scale=(0.5, 1.0))
"""
  found = {field: value for _, field, value in _literals(source)}
  views = {f"config.views.{x}.scale" for x in ("first", "second", "third")}
  assert found == {
    "config.epochs": 800,
    "config.probe.epochs": 5,
  } | dict.fromkeys(views, (0.5, 1.0))


def test_a_file_that_is_no_recipe_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "path", list(sys.path))
  idea = tmp_path / "my_idea.py"
  with pytest.raises(UsageError, match=f"exist: {tmp_path} holds no recipes"):
    flags.read_recipe(str(idea))
  idea.write_text("MINE = 1\n")
  with pytest.raises(UsageError, match="is not a recipe: it has no function"):
    flags.read_recipe(str(idea))


def test_a_recipe_copied_without_the_one_it_builds_on_is_refused(
  tmp_path, monkeypatch
):
  copied = tmp_path / "imagenet_simsiam.py"
  copied.write_text((CONFIGS / copied.name).read_text())
  monkeypatch.delitem(sys.modules, "imagenet_simclr", raising=False)
  folders = [x for x in sys.path if pathlib.Path(x).name != "configs"]
  monkeypatch.setattr(sys, "path", folders)
  with pytest.raises(UsageError, match="needs the module imagenet_simclr: put"):
    flags.read_recipe(str(copied))
  (tmp_path / "imagenet_simclr.py").write_text(
    (CONFIGS / "imagenet_simclr.py").read_text()
  )
  assert flags.read_recipe(str(copied))["method"] == "simsiam"


TERMS = sorted(config_lib.term_variants())
OF_TERMS = [x for x in RECIPES if x.startswith(("cifar_", "stl10_"))]


@pytest.mark.parametrize("name", OF_TERMS)
@pytest.mark.parametrize("size", ["", ",small"])
def test_a_variant_chooses_another_term(name, size):
  for term in TERMS:
    config = _recipe(name, f"{term}{size}")
    assert config.terms == (term,)
  baseline = rf"baseline and {TERMS[0]}|{TERMS[0]} and baseline"
  with pytest.raises(UsageError, match=baseline):
    _recipe(name, f"baseline,{TERMS[0]}")
  with pytest.raises(UsageError, match="augself and care exclude each other"):
    _recipe(name, "care,augself")


def test_terms_have_the_settings_of_their_papers():
  care = _recipe("cifar_byol", "care,cifar100")
  (term,) = config_lib.terms(care)
  assert (term.weight, term.chunks) == (0.001, 4)
  (term,) = config_lib.terms(_recipe("stl10_simsiam", "care"))
  assert (term.weight, term.chunks) == (0.01, 8)
  augself = _recipe("stl10_simsiam", "augself")
  assert (augself.epochs, augself.batch_size) == (200, 256)
  assert augself.optimizer.learning_rate == 0.03
  (term,) = config_lib.terms(augself)
  assert term.weights == {"crop": 1, "color": 1}


@pytest.mark.parametrize("method", ["simclr", "simsiam"])
@pytest.mark.parametrize("variant", ["", "baseline", "small,baseline"])
def test_flowers_and_stl10(method, variant):
  for name in ("flowers", "stl10"):
    config = _recipe(f"{name}_{method}", variant)
    is_baseline = "baseline" in variant
    assert config.method == method
    assert (config.equivariance.weight == 0) == is_baseline
    assert config.optimizer.learning_rate == (0.03 if is_baseline else 0.06)
    sizes = [
      getattr(config.views, x).size for x in ("first", "second", "third")
    ]
    assert sizes == ([48, 48, 24] if "small" in variant else [96, 96, 48])


@pytest.fixture(scope="module")
def sized_set(tmp_path_factory):
  """A set of images of many sizes with a third split."""
  return data_helpers.make_records_dir(tmp_path_factory)


def test_flowers_reads_images_of_many_sizes(sized_set):
  config = _recipe("flowers_simclr", "small")
  assert config.data.name == "oxford_flowers102"
  assert config.data.train_split == "train+validation"
  stand_in = dataclasses.replace(
    config.data, name="tiny_sized", dir=sized_set, train_split="train+test"
  )
  config = dataclasses.replace(config, data=stand_in, batch_size=8)
  experiment = experiment_lib.build(config)
  assert experiment.source.num_examples("train") == data_helpers.SIZE + 7
  assert experiment.source.image_shape == (48, 48, 3)
  batch = next(experiment.batches(0))
  names = ("first", "second", "transformed")
  assert {name: batch[name].shape for name in names} == {
    "first": (8, 48, 48, 3),
    "second": (8, 48, 48, 3),
    "transformed": (8, 24, 24, 3),
  }


def test_unlabelled_images_have_labelled_ones_beside_them(
  tmp_path, tiny_config
):
  """As STL-10's: pre-training on some, kNN and probes on others."""
  images = data_helpers.numbered_images(96, shape=(16, 16, 3))
  labels = np.arange(96) % 4
  path = tmp_path / "images.npz"
  np.savez(
    path,
    train_images=images[:64],
    train_labels=labels[:64],
    test_images=images[64:],
    test_labels=labels[64:],
  )
  settings = {
    "name": str(path),
    "train_split": "train[:40]",
    "labelled_split": "train[40:]",
  }
  probe = {"batch_size": 24}
  experiment = experiment_lib.build(
    tiny_config("simsiam", data=settings, probe=probe)
  )
  assert experiment.source.num_examples("train") == 40
  bench = bench_lib.make(experiment)
  _, bank = bench.features(experiment.create_state(), "train")
  np.testing.assert_array_equal(bank, labels[40:64])
  assert experiment.facts["number of labelled images"] == 24
  # Without labels of its own and without others, there is nothing to measure.
  bare = data.ArraySource(
    images[:64], np.full(64, -1), images[64:], labels[64:]
  )
  for fields, part in (
    ({}, "Knn"),
    ({"evaluations": ("probe",)}, "Probe"),
    ({"evaluations": ("finetune",), "mode": "finetune"}, "Finetune"),
    ({"online_classifier": True}, "OnlineClassifier"),
  ):
    config = dataclasses.replace(tiny_config("simsiam"), **fields)
    with pytest.raises(UsageError, match="none: .*labelled split") as error:
      experiment_lib.build(config, bare)
    line = str(error.value)
    assert line.startswith(f"{part} needs labels") and "\n" not in line
  config = dataclasses.replace(
    tiny_config("simsiam"), evaluations=("collapse",)
  )
  assert experiment_lib.build(config, bare).labelled is bare


def test_labels_are_whole_or_absent():
  mixed = np.array([-1, 0, 1, 2])
  with pytest.raises(UsageError, match="train_labels holds -1"):
    data.ArraySource(
      data_helpers.numbered_images(4),
      mixed,
      data_helpers.numbered_images(4),
      np.arange(4),
    )


def test_modules_beside_a_recipe_come_first(tmp_path, monkeypatch):
  """Before those of the current folder, which `python -m` puts first."""
  beside, here = tmp_path / "recipes", tmp_path / "here"
  for folder in (beside, here):
    folder.mkdir()
    (folder / "which_folder.py").write_text(f"EPOCHS = {len(folder.name)}\n")
  (beside / "recipe.py").write_text(
    "import which_folder\n"
    "from essl_jax.config import base\n"
    "def get_config():\n"
    "  config = base()\n"
    "  config.epochs = which_folder.EPOCHS\n"
    "  return config\n"
  )
  monkeypatch.chdir(here)
  monkeypatch.setattr(sys, "path", [str(here), *sys.path])
  monkeypatch.delitem(sys.modules, "which_folder", raising=False)
  assert flags.read_recipe(str(beside / "recipe.py"))["epochs"] == 7
  del sys.modules["which_folder"]


@pytest.mark.parametrize(
  ("recipe", "more"),
  [
    ("cifar_simclr.py", ""),
    ("cifar_barlow_twins.py", ""),
    ("cifar_fast.py", "--config.views.resolution=()"),
    (
      "stl10_simclr.py",
      "--config.data.train_split=train --config.data.labelled_split=None",
    ),
  ],
)
def test_a_folder_takes_the_flags_that_the_docs_give(recipe, more, tmp_path):
  """Of docs/images.md, for recipes whose own images have one size."""
  root = pathlib.Path(__file__).parents[2]
  text = (root / "docs" / "images.md").read_text(encoding="utf-8")
  (block,) = re.findall(r"--config=cifar_simclr((?: \\\n.*|.)*)\n\n", text)
  plain = " ".join(text.split())
  assert (
    more in plain
    and f"`{recipe}`" in plain
    or recipe.startswith(("cifar_s", "cifar_b", "stl10"))
  )
  made = str(folder_helpers.write_folder(tmp_path))
  words = block.replace("\\\n", " ").replace("DIR", made).split()
  few = ["--config.batch_size=16", "--config.knn.k=5"]
  few += ["--config.probe.batch_size=16", "--config.encoder.blocks=(1,)"]
  path = str(root / "configs" / recipe)
  config = flags.load(path, [*words, *more.split(), *few])
  assert config.probe.resize_size is None
  bench = bench_lib.make(experiment_lib.build(config))
  assert bench.experiment.labelled.image_shape == (32, 32, 3)


def test_recipes_of_the_package_are_found_by_name(tmp_path, monkeypatch):
  by_path = flags.raw(str(CONFIGS / "cifar_simclr.py:small"))
  assert flags.raw("cifar_simclr:small") == by_path
  with pytest.raises(UsageError, match="did you mean cifar_simclr"):
    flags.raw("cifar_simcl:small")
  monkeypatch.chdir(tmp_path)
  (tmp_path / "quickstart").mkdir()  # a folder is no recipe
  assert flags.raw("quickstart") == flags.raw(str(CONFIGS / "quickstart.py"))
  assert set(recipes.paths()) == {x.stem for x in CONFIGS.glob("*.py")}


def test_the_splits_of_a_set_are_not_those_of_another():
  found = flags.load("cifar_simclr:small", ["--config.data.name=digits"])
  assert found.data.train_split == "train" and found.epochs == 4
  found = flags.load(
    "stl10_simclr:small", {"data.name": "cifar10", "data.train_split": "test"}
  )
  assert found.data.train_split == "test" and found.data.labelled == "test"
