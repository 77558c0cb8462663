"""Runs that start from a file of weights, and weights exported from runs."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import checkpoint_forms as forms
import jax
import numpy as np
import pytest
import safetensors.numpy
from term_helpers import SMALL

from essl_jax import config as config_lib
from essl_jax import run as train
from essl_jax.convert import __main__ as program
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.storage import checkpoint, outputs, weights
from essl_jax.storage import workdir as workdir_lib
from essl_jax.training import experiment as experiment_lib

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
  """32 training and 24 test images of 16 pixels, in four classes."""
  rng = np.random.default_rng(0)
  path = tmp_path_factory.mktemp("data") / "images.npz"
  labels = np.arange(32) % 4
  images = rng.integers(0, 256, (32, 16, 16, 3), np.uint8)
  np.savez(
    path,
    train_images=images,
    train_labels=labels,
    test_images=images[:24],
    test_labels=labels[:24],
  )
  return path


@pytest.fixture(scope="module")
def make_config(tiny_config, data_file):
  def make(*, encoder=None, **fields):
    own = {"method": "simsiam", "data": {"name": str(data_file)}}
    whole = {"blocks": None}  # exports need complete ResNets
    probe = {"batch_size": 32} | fields.pop("probe", {})
    return tiny_config(
      **(own | fields), encoder=whole | (encoder or {}), probe=probe
    )

  return make


@pytest.fixture(scope="module")
def finished(make_config, tmp_path_factory):
  """A workdir with two checkpoints, without the training data."""
  workdir = tmp_path_factory.mktemp("runs") / "run"
  config = make_config(seed=1)
  state = build(config).create_state()
  data = dataclasses.replace(config.data, name="gone.npz")
  gone = dataclasses.replace(config, data=data)
  workdir_lib.check_config(workdir, config_lib.to_dict(gone))
  with checkpoint.Checkpoints(workdir) as checkpoints:
    checkpoints.save(2, state, {"knn_top1": 90.0})
    halve = jax.jit(lambda tree: jax.tree.map(lambda x: 0.5 * x, tree))
    halved = state.replace(params=halve(state.params))
    checkpoints.save(4, halved, {"knn_top1": 10.0})
  return workdir


@pytest.fixture(scope="module")
def exported(finished):
  path = finished.parent / "run.safetensors"
  program.main(["export", str(finished), str(path)])
  return path


@functools.cache
def build(config):
  """Shared by all tests, since building an experiment traces programs."""
  return experiment_lib.build(config)


def stored_state(workdir):
  with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.restore_arrays(checkpoints.choose("latest"))


def assert_equal_trees(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_an_export_is_the_checkpoint_bit_for_bit(finished, exported):
  """It does not need the data set, which is gone."""
  variables, metadata = weights.load(exported)
  state = stored_state(finished)
  assert_equal_trees(
    variables, {name: state[name] for name in ("params", "batch_stats")}
  )
  assert set(variables["params"]) == {
    "encoder",
    "projector",
    "predictor",
    "transformation_head",
  }
  expected = {"depth": 18, "stem": "cifar", "width": 8, "step": 4}
  assert expected.items() <= metadata.items()
  assert metadata["method"] == "simsiam"


def test_a_run_goes_through_pytorch_names_and_back(
  finished, exported, tmp_path
):
  torch_file = tmp_path / "torch.safetensors"
  program.main(["export", str(finished), str(torch_file), "--format=torch"])
  tensors = safetensors.numpy.load_file(torch_file)
  assert tensors["layer1.0.conv1.weight"].shape == (8, 8, 3, 3)
  back = tmp_path / "back.safetensors"
  program.main(["import", str(torch_file), str(back)])
  variables, _ = weights.load(back)
  before, _ = weights.load(exported)
  for collection in ("params", "batch_stats"):
    assert_equal_trees(
      variables[collection]["encoder"], before[collection]["encoder"]
    )


def test_the_best_checkpoint_can_be_exported(finished, exported, tmp_path):
  path = tmp_path / "best.safetensors"
  program.main(["export", str(finished), str(path), "--checkpoint=best"])
  (best, about_best), (latest, _) = weights.load(path), weights.load(exported)
  assert about_best["step"] == 2
  assert_equal_trees(
    jax.tree.map(lambda x: np.float32(0.5) * x, best["params"]),
    latest["params"],
  )


def test_an_export_describes_the_heads_of_all_terms(
  finished, tmp_path, monkeypatch, capsys
):
  """A head is taken only for the task that it was trained for."""
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)
  config = json.loads((workdir / "config.json").read_text())
  config["terms"] = ["prediction", "second:Second", "gone:Gone"]
  config["second"] = config["equivariance"] | {"group": "flips"}
  (workdir / "config.json").write_text(json.dumps(config))
  (tmp_path / "second.py").write_text(
    "from essl_jax.equivariance.prediction import Prediction\n"
    "class Second(Prediction):\n  section = 'second'\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  path = tmp_path / "a.safetensors"
  program.main(["export", str(workdir), str(path)])
  metadata = weights.read_metadata(path)
  assert metadata["equivariance"]["group"] == "rotation"
  assert metadata["second"]["group"] == "flips"
  assert "note: " in (printed := capsys.readouterr().err)
  assert "there is no module gone" in printed
  del config["encoder"]["name"]
  (workdir / "config.json").write_text(json.dumps(config))
  with pytest.raises(UsageError, match=r"config\.json in .* is damaged"):
    program.main(["export", str(workdir), str(path), "--overwrite"])


def test_a_run_with_terms_is_exported(make_config, tmp_path):
  """PyTorch gets only the encoder, Flax also the heads of the terms."""
  names = ("augself", "equimod", "sie")
  config = make_config(terms=names, **{x: SMALL[x] for x in names})
  random = np.random.default_rng(0)
  state = jax.tree.map(
    lambda x: random.normal(size=x.shape).astype(x.dtype),
    build(config).state_shapes(),
  )
  workdir = tmp_path / "run"
  workdir_lib.check_config(workdir, config_lib.to_dict(config))
  with checkpoint.Checkpoints(workdir) as checkpoints:
    checkpoints.save(4, jax.device_put(state))
  flax, torch = tmp_path / "flax.safetensors", tmp_path / "torch.safetensors"
  program.main(["export", str(workdir), str(flax)])
  program.main(["export", str(workdir), str(torch), "--format=torch"])
  variables, metadata = weights.load(flax)
  assert_equal_trees(
    variables, {"params": state.params, "batch_stats": state.batch_stats}
  )
  assert "sie_hypernetwork" in variables["params"]
  assert set(names) <= set(metadata)
  tensors = safetensors.numpy.load_file(torch)
  assert not [x for x in tensors if any(name in x for name in names)]
  back = tmp_path / "back.safetensors"
  program.main(["import", str(torch), str(back)])
  found, _ = weights.load(back)
  assert set(found["params"]) == {"encoder"}
  assert_equal_trees(found["params"]["encoder"], variables["params"]["encoder"])


def test_an_export_leaves_the_accelerators_alone(finished, tmp_path):
  """It may run beside a training, so it must not even open one."""
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "essl_jax.convert",
      "export",
      str(finished),
      str(tmp_path / "out.safetensors"),
    ],
    env=os.environ | {"JAX_PLATFORMS": "cuda", "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert "wrote" in done.stdout


def test_no_checkpoint_is_one_line(finished, tmp_path):
  (tmp_path / "run").mkdir()
  shutil.copy(finished / "config.json", tmp_path / "run")
  with pytest.raises(UsageError, match="no checkpoint in .*train first"):
    program.main(
      ["export", str(tmp_path / "run"), str(tmp_path / "o.safetensors")]
    )


def test_a_run_begins_with_a_files_weights(make_config, exported, tmp_path):
  """It takes the encoder and heads of equal shapes; others stay random."""
  variables, metadata = weights.load(exported)
  kernel = variables["params"]["projector"]["dense_0"]["kernel"]
  variables["params"]["projector"]["dense_0"]["kernel"] = kernel[:, :16]
  del variables["params"]["predictor"], variables["batch_stats"]["predictor"]
  variables["params"]["classifier"] = {"kernel": np.zeros((64, 4))}
  path = tmp_path / "changed.safetensors"
  weights.save(path, variables, metadata)

  drawn = build(make_config(seed=1)).create_state()
  state, origin = weights.initialise(drawn, path)
  assert origin.initialised == ("encoder", "transformation_head")
  assert origin.not_initialised == {
    "projector": "of another shape in the file",
    "predictor": "not in the file",
  }
  assert origin.unused == ("classifier",)
  line = origin.describe()
  assert "\n" not in line
  assert "at random: predictor (not in the file)" in line
  for collection in ("params", "batch_stats"):
    after = jax.device_get(getattr(state, collection))
    before = jax.device_get(getattr(drawn, collection))
    assert set(after) == set(before)
    for network in after:
      taken = network in origin.initialised
      source = variables[collection] if taken else before
      assert_equal_trees(after[network], source[network])
  assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(
    lambda x: x.sharding, drawn
  )
  assert_equal_trees(
    jax.device_get(state.opt_state), jax.device_get(drawn.opt_state)
  )


@pytest.mark.slow
def test_training_from_a_file_and_resuming(
  make_config, exported, tmp_path, capsys, monkeypatch
):
  """If steps change nothing, a run ends with the file's weights."""

  def make_step(experiment):
    del experiment
    metrics = {"loss": 1.0, "loss_ssl": 1.0}
    return lambda state, batch: (state.replace(step=state.step + 1), metrics)

  monkeypatch.setattr(experiment_lib.Experiment, "make_step", make_step)
  source, workdir = tmp_path / "init.safetensors", tmp_path / "run"
  shutil.copy(exported, source)
  changes = {"seed": 2, "probe": {"protocol": "none"}}
  config = make_config(init_from=str(source), **changes)
  train.run(config, workdir)
  printed = capsys.readouterr().out
  assert f"initialised from {source}: encoder, " in printed
  assert "before training: kNN" in printed
  state, (variables, _) = stored_state(workdir), weights.load(source)
  assert state["step"] == 4
  assert_equal_trees(state["params"], variables["params"])
  assert_equal_trees(state["batch_stats"], variables["batch_stats"])

  source.unlink()  # a run that has checkpoints does not need it
  train.run(config, workdir)
  assert "initialised from" not in capsys.readouterr().out
  with pytest.raises(UsageError, match="init_from is .* there, null here"):
    train.run(make_config(**changes), workdir)


def test_an_imported_encoder_is_evaluated(
  make_config, tmp_path, capsys, built_once
):
  """It is evaluated like a run's own, without untrained heads."""
  source, output = tmp_path / "cifar.npz", tmp_path / "encoder.safetensors"
  np.savez(source, **forms.encoder())
  program.main(["import", str(source), str(output)])
  config = make_config(init_from=str(output), mode="evaluate")
  workdir = tmp_path / "run"
  train.run(config, workdir)
  results = json.loads((workdir / "results.json").read_text())
  assert results["step"] == 0
  assert set(results["figures"]) == {"knn", "collapse", "linear_probe"}
  origin = results["initialised_from"]
  assert origin["initialised"] == ["encoder"]
  assert origin["metadata"]["source"].endswith("(cifar.npz)")
  assert not (workdir / "checkpoints").exists()
  assert f"initialised from {output}: encoder; at" in capsys.readouterr().out

  # The figure belongs to the file's encoder, not to a random one.
  experiment = experiment_lib.build(config)
  state, _ = weights.initialise(experiment.create_state(), output)
  monitored, _ = bench_lib.make(experiment).monitor(state)
  assert results["figures"]["knn"]["knn_top1"] == monitored["knn_top1"]
  train.run(config, workdir)  # again, replacing its own results


def test_a_head_from_the_file_is_evaluated_too(make_config, exported, tmp_path):
  config = make_config(
    init_from=str(exported), mode="evaluate", probe={"protocol": "none"}
  )
  train.run(config, tmp_path / "run")
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  assert set(results["figures"]) == {"knn", "collapse", "transformation"}


def test_another_architecture_is_named_in_one_line(make_config, exported):
  config = make_config(encoder={"width": 4})
  experiment = experiment_lib.build(config)
  narrower = jax.eval_shape(experiment.create_state)
  with pytest.raises(UsageError) as error:
    weights.initialise(narrower, exported)
  message = str(error.value)
  assert "\n" not in message
  assert "another encoder (depth 18, stem cifar, width 8)" in message
  assert "float32(8) there, float32(4) here" in message
  assert "more: set config.encoder" in message


@pytest.mark.parametrize(
  ("content", "expected"),
  [(None, "cannot read"), (b"text", "cannot read"), ("torch", "no Flax")],
)
def test_unfit_files_stop_a_run_before_its_data_are_read(
  content, expected, make_config, tmp_path, monkeypatch
):
  path = tmp_path / "init.safetensors"
  if content == "torch":
    path.write_bytes(weights.to_bytes(forms.plain()))
  elif content:
    path.write_bytes(content)

  def build(*arguments):
    raise AssertionError("the data were read")

  monkeypatch.setattr(experiment_lib, "build", build)
  config = make_config(init_from=str(path))
  with pytest.raises(UsageError, match=expected) as error:
    train.run(config, tmp_path / "run")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def test_transposed_views_are_saved_as_they_are(tmp_path):
  """The format stores raw memory."""
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  path = tmp_path / "a.safetensors"
  weights.save(path, {"params": {"encoder": {"kernel": array.T}}}, {})
  kernel = weights.load(path)[0]["params"]["encoder"]["kernel"]
  np.testing.assert_array_equal(kernel, array.T)
  with pytest.raises(UsageError, match="exists: .*overwrite"):
    weights.save(path, {"params": {}}, {})


def test_flipped_bits_of_a_file_are_found(tmp_path):
  """Files of an earlier version, without a digest, can still be read."""
  path = tmp_path / "a.safetensors"
  kernel = np.arange(6, dtype=np.float32)
  variables = {"params": {"encoder": {"kernel": kernel}}}
  weights.save(path, variables, {"source": "a test"})
  loaded, metadata = weights.load(path)
  np.testing.assert_array_equal(loaded["params"]["encoder"]["kernel"], kernel)
  assert set(metadata) == {"source", "format_version"}
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  with pytest.raises(UsageError, match="is damaged .*again$") as error:
    weights.load(path)
  assert "\n" not in str(error.value)
  assert metadata["format_version"] == 2
  header = {"essl_jax": json.dumps({"format_version": 1})}
  outputs.write(
    path, weights.to_bytes({"params/encoder/kernel": kernel}, header)
  )
  assert weights.load(path)[1] == {"format_version": 1}


def test_flipped_bits_of_a_header_are_found(tmp_path):
  """Whatever bit of the header flips, no changed content is read."""
  path = tmp_path / "a.safetensors"
  variables = {"params": {"encoder": {"kernel": np.ones(2, np.float32)}}}
  said = {"source": "a test", "depth": 18, "stem": "cifar", "width": 8}
  weights.save(path, variables, said | {"term": {2: True, 10: None}})
  good, content = weights.load(path)[1], path.read_bytes()
  end = 8 + int.from_bytes(content[:8], "little")
  refused = 0
  for bit in range(0, 8 * end, 11):
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(flipped)
    try:
      arrays, metadata = weights.load(path)
    except UsageError as error:
      refused += 1
      assert "\n" not in str(error)
    else:  # such as a space of the padding
      assert metadata == good, bit
      np.testing.assert_array_equal(arrays["params"]["encoder"]["kernel"], 1)
  assert refused > 0.9 * 8 * end / 11


@pytest.mark.parametrize("version", ["Infinity", "[" * 100_000, "null", "[]"])
def test_a_damaged_header_is_one_line(version, tmp_path):
  path = tmp_path / "a.safetensors"
  header = {"essl_jax": f'{{"format_version": {version}}}'}
  outputs.write(path, weights.to_bytes({"a": np.zeros(1)}, header))
  with pytest.raises(UsageError, match="has a damaged header") as error:
    weights.load(path)
  assert "\n" not in str(error.value)
