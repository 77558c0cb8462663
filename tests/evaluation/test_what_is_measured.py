"""Which network evaluations measure, and which of its features."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import program_helpers
import pytest

from essl_jax import config as config_lib
from essl_jax.config.parts import EVALUATION, METHOD
from essl_jax.convert import __main__ as convert
from essl_jax.convert import networks as networks_of_run
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import results
from essl_jax.evaluation.encoding import Encoding
from essl_jax.report import opening, runs, samples, sections
from essl_jax.storage import checkpoint, weights
from essl_jax.storage import workdir as workdir_lib
from essl_jax.training import applying
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import networks as networks_lib

VIT = {"name": "vit", "image_size": 16, "patch": 4, "width": 8}
VIT |= {"depth": 2, "heads": 2}
OUTPUT = {"encoder_features": "output"}


def make(tiny_config, **fields):
  """A config of BYOL on a ViT, on a few digits."""
  common = {
    "encoder": VIT,
    "epochs": 1,
    "batch_size": 32,
    "equivariance": {"weight": 0.0},
    "data": {"train_split": "train[:64]", "test_split": "test[:40]"},
    "evaluations": ("knn",),
    "optimizer": {"warmup_epochs": 0},
    "probe": None,
  }
  return tiny_config("byol", **common | fields)


@pytest.fixture(scope="module")
def benches(request):
  """A bench of each network, and a state whose networks differ."""
  tiny_config = request.getfixturevalue("tiny_config")
  online = experiment_lib.build(make(tiny_config))
  config = dataclasses.replace(online.config, evaluate_network="target")
  target = dataclasses.replace(online, config=config)
  made = {"online": bench_lib.make(online), "target": bench_lib.make(target)}
  state = online.create_state()
  moved = jax.tree.map(lambda x: 1.5 * x + 0.1, state.target["params"])
  return made, state.replace(target=state.target | {"params": moved})


def test_features_are_of_the_network_that_is_asked_for(benches):
  made, state = benches
  of = {"online": state.params, "target": state.target["params"]}
  assert not np.array_equal(*(of[x]["encoder"]["pos_embed"] for x in of))
  found = {}
  for name, bench in made.items():
    variables = bench.encoder_variables(state)
    jax.tree.map(
      np.testing.assert_array_equal, variables["params"], of[name]["encoder"]
    )
    found[name], _ = bench.features(state, "test")
    assert bench.measured["network"] == name
  assert np.abs(found["online"] - found["target"]).max() > 1e-3


def test_remembered_features_are_those_of_the_network(benches):
  """If only the online network changes, the target's features stay."""
  made, state = benches
  other = state.replace(params=jax.tree.map(lambda x: x * 1.5, state.params))
  for name, is_same in (("online", False), ("target", True)):
    bench = made[name]
    with bench.encoding.remembering(state, keep=True):
      first, _ = bench.features(state, "test")
    with bench.encoding.remembering(other):
      second, _ = bench.features(other, "test")
    assert (first is second) is is_same


def test_default_is_the_methods(tiny_config, monkeypatch):
  byol = tiny_config("byol")
  assert config_lib.evaluated_network(byol) == "online"
  monkeypatch.setattr(METHOD.find("byol"), "evaluated_network", "target")
  assert config_lib.evaluated_network(byol) == "target"
  chosen = tiny_config("byol", evaluate_network="online")
  assert config_lib.evaluated_network(chosen) == "online"


def test_a_teacher_of_a_method_without_one_is_refused(
  tiny_config, tmp_path, monkeypatch, capsys
):
  config = tiny_config("simclr", evaluate_network="target")
  with pytest.raises(UsageError, match="simclr has no target network"):
    networks_lib.check_parts(config)
  recipe = tmp_path / "recipe.py"
  recipe.write_text(
    "from essl_jax.config import base\n\n\n"
    "def get_config():\n  return base(method='simclr', data='digits')\n"
  )
  flag = "--config.evaluate_network=target"
  said = program_helpers.refusal(
    monkeypatch, capsys, recipe, tmp_path / "run", flag
  )
  (line,) = said.strip().splitlines()
  assert "evaluate_network=target: method simclr has no target" in line
  assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    ({"evaluate_features": "last_3"}, "token, mean, or last_1 to last_2"),
    (
      {"evaluate_features": "mean", "encoder": {"width": 8, "blocks": (1,)}},
      "evaluate_features=mean: ResNet offers only output",
    ),
  ],
)
def test_features_that_do_not_exist_are_refused(tiny_config, fields, expected):
  with pytest.raises(UsageError, match=expected) as error:
    experiment_lib.build(make(tiny_config, **fields))
  assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def run(benches, tmp_path_factory):
  """A run that measures its target network: state and folder, not trained."""
  made, state = benches
  bench = made["target"]
  workdir = tmp_path_factory.mktemp("measured") / "run"
  workdir_lib.check_config(workdir, config_lib.to_dict(bench.experiment.config))
  with checkpoint.Checkpoints(workdir) as checkpoints:
    checkpoints.save(2, state, wait=True)
  results.write(bench, workdir, state, 2)
  return bench, workdir, json.loads((workdir / "results.json").read_text())


def test_a_run_measures_its_target(run, benches, capsys):
  """In training and at the end alike."""
  bench, workdir, found = run
  state = benches[1]
  assert found["measured"] == {"network": "target"} | OUTPUT
  figures, _ = bench.monitor(state)
  assert figures["knn_top1"] == found["figures"]["knn"]["knn_top1"]
  results.write(bench, workdir, state, 2)
  assert "step 2, target network" in capsys.readouterr().out


def test_the_report_shows_the_network_that_was_measured(run, benches):
  state = benches[1]
  (shown,) = runs.read([str(run[1])])
  variables, step = opening.restore(shown, opening.build(shown))
  assert step == 2
  jax.tree.map(
    np.testing.assert_array_equal,
    variables["params"],
    state.target["params"]["encoder"],
  )
  random = np.random.default_rng(0)
  found = samples.Samples(
    features=random.standard_normal((9, 4)), values=np.zeros(9), step=step
  )
  (picture,) = sections.embeddings([(shown, found)]).figures
  assert "step 2, target network" in picture.caption


def test_the_export_holds_the_network_that_was_measured(
  run, benches, tmp_path, monkeypatch, capsys
):
  state, workdir = benches[1], run[1]
  path = tmp_path / "weights.safetensors"
  monkeypatch.setattr(
    sys, "argv", ["convert", "export", str(workdir), str(path)]
  )
  convert.main()
  assert "network: target" in capsys.readouterr().out
  variables, metadata = weights.load(path)
  assert metadata["network"] == "target"
  for name, expected in (
    ("encoder", state.target["params"]["encoder"]),
    ("projector", state.target["params"]["projector"]),
    ("predictor", state.params["predictor"]),  # the target has none
  ):
    jax.tree.map(
      np.testing.assert_array_equal, variables["params"][name], expected
    )


def test_exports_of_runs_whose_modules_are_gone():
  tree = {"params": {"encoder": 1, "head": 2}, "batch_stats": {}}
  tree |= {"target": {"params": {"encoder": 3}, "batch_stats": {}}}
  other = {"method": "dino", "terms": ("gone:Term",)}
  assert networks_of_run.choose(other, tree)[1] == "target"
  config = {"method": "gone:Method"}
  with pytest.raises(UsageError, match="there is no module gone"):
    networks_of_run.choose(config, tree)  # which of the two is not known
  variables, network = networks_of_run.choose(config, tree | {"target": None})
  assert (variables["params"], network) == (tree["params"], "online")
  config["evaluate_network"] = "target"
  variables, network = networks_of_run.choose(config, tree)
  assert variables["params"] == {"encoder": 3, "head": 2}
  assert network == "target"
  variables, network = networks_of_run.choose(config, tree | {"target": None})
  assert (variables["params"], network) == (tree["params"], "online")


def test_figures_of_other_features_do_not_stay(run, benches):
  """Those of the same network and features do."""
  bench, workdir, before = run
  state = benches[1]
  found = {}
  for features in ("output", "last_2"):
    other = with_features(bench, features)
    results.write(other, workdir, state, 2)
    found[features] = json.loads((workdir / "results.json").read_text())
  assert found["output"]["figures"] == before["figures"]
  assert found["last_2"]["figures"] == found["last_2"]["untrained"] == {}
  wide, _ = other.features(state, "test")
  assert wide.shape == (40, 2 * VIT["width"])
  output, _ = bench.features(state, "test")
  np.testing.assert_allclose(wide[:, VIT["width"] :], output, rtol=1e-5)


def test_features_in_training_mode_have_the_same_form(benches):
  made, state = benches
  variables = made["target"].encoder_variables(state)
  encoder = made["target"].experiment.networks.encoder
  images = jax.ShapeDtypeStruct((3, 16, 16, 3), jnp.float32)
  for features, width in (("output", 8), ("mean", 8), ("last_2", 16)):
    encode = applying.make_apply(encoder, train=True, features=features)
    found = jax.eval_shape(encode, variables, images)
    assert (found.shape, found.dtype) == ((3, width), jnp.float32)


@pytest.mark.slow
def test_heads_learn_on_the_features_that_are_asked_for(benches):
  """The encoder is that of the target; the protocol says so."""
  made, state = benches
  few = {"labels": 0.5, "epochs": 1, "batch_size": 16}
  tune = EVALUATION.find("finetune")(**few)
  other = with_features(made["target"], "last_2", tune)
  few = {"protocol": "fast", "epochs": 1, "repetitions": 1, "batch_size": 32}
  probe = EVALUATION.find("probe")(**few)
  for found in (*tune.run(other, state).values(), probe.run(other, state)):
    assert found["encoder_features"] == "last_2"
    assert found["network"] == "target"
    assert found["num_test"] == 40


def with_features(bench, features, *evaluations):
  """A bench of the same network, for evaluations of other features."""
  config = bench.experiment.config
  config = dataclasses.replace(config, evaluate_features=features)
  experiment = dataclasses.replace(bench.experiment, config=config)
  return dataclasses.replace(
    bench,
    experiment=experiment,
    encoding=Encoding(experiment),
    evaluations=evaluations,
    figures={},
  )


def test_views_of_a_few_patches_are_warned_of(tiny_config):
  """In every stage of the training, but only for views in use."""
  sizes = {x: {"size": 16} for x in ("first", "second")}
  fields = {"views": sizes | {"third": {"size": 4}}}
  stage = {"resolution": ((0.0, 0.5),)}
  for options, names in (
    (fields, []),
    (fields | {"equivariance": {"weight": 1.0}}, ["third of 4 pixels has 1"]),
    (
      {"views": fields["views"] | stage},
      ["first of 8 pixels has 4 patches of 4", "second of 8 pixels"],
    ),
  ):
    found = experiment_lib.build(make(tiny_config, **options)).warnings
    assert len(found) == len(names)
    for line, name in zip(found, names, strict=True):
      assert name in line and "smaller config.encoder.patch" in line
