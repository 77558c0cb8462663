"""Speed beside a peer, and the steps that are measured."""

import dataclasses
import json
import pathlib
import sys
import types

import benchmark
import flax
import jax
import memory
import numpy as np
import peer
import programs
import pytest
import step_cases

from essl_jax.augment import View, ViewRequest
from essl_jax.errors import UsageError
from essl_jax.training import experiment as experiment_lib

COMMITTED = (
  pathlib.Path(benchmark.__file__).parents[1]
  / "results/step_benchmark_cpu.json"
)
# A peer in five lines: prints what docs/performance.md asks for.
PEER = """\
import argparse, json
parser = argparse.ArgumentParser()
for name in ("method", "batch", "steps", "rotation-weight"):
  parser.add_argument(f"--{name}")
parser.add_argument("--compile", action="store_true")
options = parser.parse_args()
print(json.dumps({
  "device": "DEVICE", "method": options.method,
  "batch": int(options.batch), "pipeline": False,
  "median_step_seconds": 3.0}))
"""


def _ours(**fields):
  line = {
    "program": "essl_jax",
    "device": "cpu",
    "devices": 1,
    "method": "simsiam",
    "batch": 64,
    "width": 64,
    "size": 32,
    "precision": "float32",
    "micro_batches": 1,
    "pipeline": False,
    "augment": True,
    "rotation_weight": 0.4,
    "steps_per_dispatch": 1,
    "median_step_seconds": 4.0,
  }
  return line | fields


@pytest.fixture
def peer_options(tmp_path, monkeypatch):
  """Words for benchmark.py: a peer that takes 3 s where we take 4."""
  path = tmp_path / "peer.py"
  path.write_text(PEER.replace("DEVICE", "cpu"))
  (tmp_path / "torch.py").touch()
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # where it "is installed"
  ours = tmp_path / "ours.py"
  ours.write_text(f"import sys\nprint({json.dumps(json.dumps(_ours()))})")
  monkeypatch.setattr(peer, "OURS", ours)
  return [
    f"--peer={path}",
    f"--peer-python={sys.executable}",
    "--rounds=2",
    "--augment",
  ]


def test_both_programs_run_in_turn(peer_options, capsys):
  assert benchmark.main(peer_options) == 0
  record = json.loads(capsys.readouterr().out)
  assert record["torch_over_jax_step_time"] == [0.75, 0.75]
  assert record["images_per_second_ratio"] == 0.75
  programs_run = [run["program"] for run in record["runs"]]
  assert programs_run == ["peer", "essl_jax"] * 2
  theirs, ours = record["commands"]
  assert ours == "python experiments/profiling/benchmark.py --augment"
  assert "--batch=64" in theirs


@pytest.mark.parametrize(
  ("before", "tolerance", "code"),
  [(1.0, "0.1", 1), (1.0, "0.3", 0), (0.756, "0.1", 0)],
)
def test_a_drop_of_the_ratio_fails_in_one_line(
  peer_options, tmp_path, capsys, before, tolerance, code
):
  """We are 0.75 times as fast now."""
  record = json.loads(COMMITTED.read_text())
  record["torch_over_jax_step_time"] = [before - 0.1, before, before + 0.1]
  path = tmp_path / "record.json"
  path.write_text(json.dumps(record))
  words = [*peer_options, f"--check={path}", f"--tolerance={tolerance}"]
  assert benchmark.main(words) == code
  error = capsys.readouterr().err
  if code:
    assert "0.750 times" in error and "1.000 in the record: 25% less" in error
    assert len(error.splitlines()) == 1
  else:
    assert not error


@pytest.mark.parametrize("ratios", [3, ["a"], [], [0.0], None])
def test_ratios_that_are_none_are_refused(tmp_path, ratios):
  record = json.loads(COMMITTED.read_text())
  path = tmp_path / "record.json"
  path.write_text(json.dumps(record | {"torch_over_jax_step_time": ratios}))
  with pytest.raises(UsageError, match="is not a record"):
    peer.load(path)


def test_another_step_or_device_is_not_compared():
  committed = peer.load(COMMITTED) | {"torch_over_jax_step_time": [0.75]}
  fields = {"torch_over_jax_step_time": [0.75], "peer_arguments": []}
  assert peer.compare(fields | {"runs": [_ours()]}, committed, 0.1) is None
  for name, value in (("batch", 32), ("device", "H100"), ("augment", False)):
    now = fields | {"runs": [_ours(**{name: value})]}
    with pytest.raises(UsageError, match=f"the record has {name}"):
      peer.compare(now, committed, 0.1)
  now = fields | {"runs": [_ours()]}
  changed = [
    ("rotation_weight", {"runs": [_ours(rotation_weight=0.8)]}),
    ("steps_per_dispatch", {"runs": [_ours(steps_per_dispatch=4)]}),
    ("peer_arguments", {"peer_arguments": ["--compile"]}),
  ]
  for name, other in changed:
    with pytest.raises(UsageError, match=f"the record has {name}"):
      peer.compare(now, now | other, 0.1)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--peer=absent.py"], "no such file"),
    (["--check=record.json"], "--check compares with a peer"),
    (["--rounds=0"], "--rounds must be at least 1"),
    (["--peer-python=absent"], "PyTorch cannot be imported by absent"),
    (["--width=32"], "the peer's step has width 64"),
    (["--config=absent.py"], "absent.py"),
    (["--config=configs/cifar_byol.py", "--size=16"], "leave out --size"),
    (["--config=configs/cifar_byol.py:odd"], "unknown config variant"),
    (["--peer-arguments='"], "is not valid shell syntax: No closing"),
    (["--check=absent.json"], "is not a record"),
    ([f"--check={__file__}"], "is not a record"),
    (["--devices=0"], "there are"),
    (["--examples=64"], "needs --augment and no --images"),
    (["--examples=64", "--augment", "--images=x.npz"], "and no --images"),
    (["--examples=0", "--augment"], "--examples=0 must be at least --batch=64"),
    (["--examples=-5", "--augment"], "must be at least --batch=64"),
    (["--steps-per-dispatch=2"], "needs images in device memory"),
    (["--steps-per-dispatch=0"], "--steps-per-dispatch must be at least 1"),
  ],
)
def test_wrong_arguments_end_with_one_line(
  peer_options, words, message, capsys
):
  alone = ("--check=record", "--devices", "--examples", "--steps-per")
  given = [] if words[0].startswith(alone) else peer_options
  assert benchmark.main([*given, *words]) == 2
  error = capsys.readouterr().err
  assert message in error and len(error.splitlines()) == 1


def test_peers_of_another_device_or_precision_are_refused(
  peer_options, monkeypatch, capsys, tmp_path
):
  theirs = {"device": "cpu"}
  with pytest.raises(UsageError, match="--precision=float32"):
    peer.check_same_device(theirs, _ours(precision="bfloat16"))
  theirs = {"device": "H100"}
  with pytest.raises(UsageError, match="--precision=bfloat16"):
    peer.check_same_device(theirs, _ours(device="H100"))
  (tmp_path / "peer.py").write_text(PEER.replace("DEVICE", "H100"))
  assert benchmark.main(peer_options) == 2
  assert "the peer ran on H100, but we ran on cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ('"method": options.method', '"method": "simclr"', "the peer ran method"),
    ("int(options.batch)", "32", "the peer ran batch 32, but we ran 64"),
    ('"pipeline": False', '"pipeline": True', "the peer ran pipeline True"),
    ('"pipeline": False,', "", "the peer's line lacks pipeline"),
    ("3.0", "None", "median_step_seconds is None"),
  ],
)
def test_a_peer_of_another_step_or_form_is_refused(
  peer_options, tmp_path, capsys, old, new, message
):
  path = tmp_path / "peer.py"
  assert path.read_text().count(old) == 1
  path.write_text(path.read_text().replace(old, new))
  assert benchmark.main(peer_options) == 2
  error = capsys.readouterr().err
  assert message in error and len(error.splitlines()) == 1


def test_a_peer_keeps_its_name_and_its_arguments(
  peer_options, tmp_path, capsys
):
  path = tmp_path / "peer.py"
  named = path.read_text().replace("{\n", '{\n  "program": "essl_jax",', 1)
  path.write_text(named)
  words = [*peer_options, "--peer-arguments=--compile"]
  assert benchmark.main(words) == 0
  record = json.loads(capsys.readouterr().out)
  assert record["peer_arguments"] == ["--compile"]
  assert record["commands"][0].endswith("--compile")
  # Whatever it calls itself, the record's own step is ours.
  assert peer.compare(record, record, 0.1) is None
  narrow = record | {"runs": [_ours(width=32)]}
  with pytest.raises(UsageError, match="has width 32, but this run has 64"):
    peer.compare(record, narrow, 0.1)


def test_a_program_that_fails_is_quoted():
  with pytest.raises(UsageError, match="exit code 3: no memory"):
    code = "import sys; print('no memory', file=sys.stderr); sys.exit(3)"
    programs.last_line([sys.executable, "-c", code])
  with pytest.raises(UsageError, match="printed no JSON line"):
    programs.last_line([sys.executable, "-c", "print('hello')"])
  with pytest.raises(UsageError, match="printed no JSON line"):
    programs.last_line([sys.executable, "-c", "print(3)"])
  with pytest.raises(UsageError, match="cannot be run"):
    programs.last_line(["./absent"])


def test_steps_are_those_of_the_options():
  arguments = step_cases.defaults(size=16, method="simclr", batch=8)
  config = step_cases.make_config(arguments)
  assert (config.batch_size, config.views.third.size) == (8, 8)
  assert config.temperature == 0.5
  source = step_cases.make_source(config, examples=12)
  assert source.train_images.shape == (12, 16, 16, 3)
  experiment = experiment_lib.build(config, source)
  images, targets = step_cases.random_views(experiment)
  assert images["first"].shape == images["second"].shape == (8, 16, 16, 3)
  assert images["transformed"].shape == (32, 8, 8, 3)
  assert targets["transformed"]["labels"].shape == (32,)
  # Of another program with options of its own.
  assert memory.SETTINGS["rematerialize"].keys() <= vars(arguments).keys()


def test_a_recipe_says_which_step_it_is():
  recipe = str(pathlib.Path(step_cases.__file__).parents[2] / "configs")
  recipe += "/cifar_mocov3.py:vit"
  config = step_cases.make_config(step_cases.defaults(config=recipe, batch=32))
  facts = step_cases.facts(config)
  assert (facts["method"], facts["encoder"]) == ("moco_v3", "vit")
  assert (facts["batch"], facts["width"], facts["size"]) == (32, 192, 32)
  assert facts["rotation_weight"] == config.equivariance.weight > 0


def test_seconds_are_of_a_step_and_programs_are_whole(monkeypatch):
  clock = iter(range(0, 1000, 8))  # a program takes 8 seconds
  monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
  calls = []

  def program(state, *batch):
    calls.append(batch)
    return state + 4, None

  batches = iter([("held", "rows")] * 9)
  seconds = benchmark.time_steps(program, 0, batches, 6, 4)
  assert seconds == [2.0, 2.0]
  assert calls == [("held", "rows")] * 2


class _State(flax.struct.PyTreeNode):
  """The state from which views are made."""

  step: int = 0
  params: int = 1
  opt_state: int = 1
  target: int = 1


def test_augmentation_is_timed_with_and_without_parameters(monkeypatch):
  """In turn, with requests that are otherwise equal."""
  asked = []

  def make_views(requests):
    asked.append(requests)
    return lambda state, batch: batch["image"].sum() + state.step

  clock = iter([0.0, 9.0, 0.0, 9.0, *(0.0, 1.0, 0.0, 2.0) * 3])
  tick = types.SimpleNamespace(perf_counter=lambda: next(clock))
  monkeypatch.setattr(benchmark, "time", tick)
  monkeypatch.setattr(benchmark.views_lib, "make_views", make_views)
  requests = [ViewRequest(x, View(size=8)) for x in ("first", "second")]
  experiment = types.SimpleNamespace(
    config=types.SimpleNamespace(batch_size=2),
    source=types.SimpleNamespace(train_images=np.zeros((3, 8, 8, 3), np.uint8)),
    create_state=_State,
    requests=requests,
  )
  assert benchmark.augmentation_seconds(experiment, 3) == (1.0, 2.0)
  told = [dataclasses.replace(x, parameters=True) for x in requests]
  assert asked == [requests, told]


def test_recipes_of_other_terms_are_measured():
  configs = pathlib.Path(__file__).parents[2] / "configs"
  words = [f"--config={configs / 'cifar_simclr.py'}:augself"]
  config = step_cases.make_config(benchmark.parse(words)[0])
  assert step_cases.facts(config)["rotation_weight"] == 0
  config = step_cases.make_config(benchmark.parse([])[0])
  assert step_cases.facts(config)["rotation_weight"] == 0.4


def test_several_steps_are_measured_as_one_program(short_resnet, capsys):
  words = ["--width=4", "--batch=8", "--size=8", "--devices=2", "--augment"]
  words += ["--steps=3", "--steps-per-dispatch=2", "--examples=24"]
  assert benchmark.main(words) == 0
  record = json.loads(capsys.readouterr().out)
  assert (record["steps_per_dispatch"], record["steps"]) == (2, 4)
  assert (record["devices"], record["rotation_weight"]) == (2, 0.4)
  assert record["median_step_seconds"] > 0
  share = record["augmentation_with_parameters_share_of_step"]
  told = record["augmentation_with_parameters_seconds"]
  assert share == told / record["median_step_seconds"] > 0
  experiment, steps, batches = step_cases.build(benchmark.parse(words)[0])
  held, rows = next(batches)
  assert (held["image"].shape[0], rows.shape) == (24, (2, 8))
  _, metrics = jax.eval_shape(steps, experiment.create_state(), held, rows)
  assert metrics["loss"].shape == (2,)
