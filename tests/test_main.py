"""The program as a user runs it: results, resuming, signals, wrong input."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import data_helpers
import jax
import numpy as np
import pytest

from essl_jax import checkpoint, train
from essl_jax import config as config_lib
from essl_jax import experiment as experiment_lib
from essl_jax.errors import UsageError

ROOT = pathlib.Path(__file__).parents[1]
TINY = """
import ml_collections
from essl_jax.variants import variants

def get_config(variant=None):
  chosen = variants(variant, {"baseline": "without equivariance"})
  view = dict(size=16)
  return ml_collections.ConfigDict(dict(
      method="simclr", epochs=6, batch_size=16, temperature=0.5, log_every=1,
      checkpoint_every_epochs=1, mode="train",
      data=dict(name="digits", train_split="train[:64]",
                test_split="test[:40]",
                dir=ml_collections.config_dict.placeholder(str)),
      views=dict(first=dict(view), second=dict(view), third=dict(size=8)),
      model=dict(width=8), projector=dict(widths=(32, 32)),
      equivariance=dict(group="rotation", hidden_widths=(32,),
                        weight=0.0 if chosen else 0.4),
      optimizer=dict(warmup_epochs=1), knn=dict(k=20, every_epochs=2),
      probe=dict(protocol="fast", epochs=3, repetitions=2)))
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
  path = tmp_path_factory.mktemp("configs") / "tiny.py"
  path.write_text(TINY)
  return path


def _environment():
  """One device, the tests' compilation cache."""
  cache = jax.config.jax_compilation_cache_dir
  return os.environ | {
    "XLA_FLAGS": "",
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    "PYTHONPATH": str(ROOT),
  }


def _command(config_file, workdir, *flags):
  return [
    sys.executable,
    "-m",
    "essl_jax.main",
    f"--config={config_file}",
    f"--workdir={workdir}",
    *flags,
  ]


def _run(*arguments):
  return subprocess.run(
    _command(*arguments),
    env=_environment(),
    capture_output=True,
    text=True,
    timeout=280,
    check=False,
  )


@pytest.fixture(scope="module")
def finished(config_file, tmp_path_factory):
  """A whole run: its workdir and what it printed."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  done = _run(config_file, workdir)
  assert done.returncode == 0, done.stderr
  return workdir, done.stdout


def _state(workdir):
  """All arrays of the latest checkpoint."""
  raw = config_lib.parse(checkpoint.read_config(workdir))
  experiment = experiment_lib.build(raw)
  with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
    return jax.device_get(checkpoints.restore(experiment.create_state()))


def test_a_run_reports_and_writes_everything(finished):
  workdir, printed = finished
  for text in ("kNN top-1, untrained", "linear probe top-1", "rotation"):
    assert text in printed
  results = json.loads((workdir / "results.json").read_text())
  assert results["step"] == 24
  knn = results["figures"]["knn"]
  assert (knn["k"], knn["temperature"]) == (20, 0.1)
  assert (knn["bank_size"], knn["num_queries"]) == (64, 40)
  probe = results["figures"]["linear_probe"]
  assert (probe["protocol"], probe["repetitions"]) == ("fast", 2)
  assert len(probe["linear_top1_each"]) == 2
  assert 0 <= results["untrained"]["knn_top1"] <= 100
  training = results["training"]
  speed = training["source_images_per_second"]
  assert speed > 0
  assert training["encoder_images_per_second"] == pytest.approx(6 * speed)
  assert results["environment"]["device_count"] == 1
  assert results["config"]["method"] == "simclr"
  assert (workdir / "summary.png").stat().st_size > 10_000
  assert list((workdir / "tensorboard").iterdir())


def test_metrics_have_every_term_of_every_step(finished):
  lines = (finished[0] / "metrics.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  steps = [r["step"] for r in records if "loss" in r]
  assert steps == list(range(1, 25))
  names = {
    "loss",
    "loss_ssl",
    "loss_equivariance",
    "equivariance_accuracy",
    "gradient_norm",
    "learning_rate",
    "embedding_std",
  }
  for record in records:
    if "loss" in record:
      assert names <= set(record)
      assert record["loss"] == pytest.approx(
        record["loss_ssl"] + 0.4 * record["loss_equivariance"], rel=1e-5
      )
  assert [r["step"] for r in records if "knn_top1" in r] == [0, 8, 16, 24]


def _wait_for(path, text, process):
  deadline = time.monotonic() + 240
  while time.monotonic() < deadline:
    if path.exists() and text in path.read_text():
      return
    assert process.poll() is None, "the run ended before it was stopped"
    time.sleep(0.02)
  raise AssertionError(f"{text} did not appear in {path}")


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_ends_as_one_that_was_not(
  kind, config_file, finished, tmp_path
):
  """Bit for bit; SIGTERM saves at once and exits with 0."""
  workdir = tmp_path / "run"
  process = subprocess.Popen(
    _command(config_file, workdir),
    env=_environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  _wait_for(workdir / "metrics.jsonl", '"step": 9', process)
  process.send_signal(kind)
  printed, errors = process.communicate(timeout=200)
  if kind == signal.SIGTERM:
    assert process.returncode == 0, errors
    assert "stopped by SIGTERM after step" in printed
  done = _run(config_file, workdir)
  assert done.returncode == 0, done.stderr
  assert "resuming" in done.stdout
  results = json.loads((workdir / "results.json").read_text())
  assert results["training"]["starts"] == 2
  assert results["training"]["steps"] == 24
  expected, actual = _state(finished[0]), _state(workdir)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(x)["step"] for x in lines if "loss_ssl" in x]
  assert steps == list(range(1, 25))


def test_evaluate_mode_repeats_the_figures(config_file, finished):
  workdir, _ = finished
  before = json.loads((workdir / "results.json").read_text())
  done = _run(config_file, workdir, "--config.mode=evaluate")
  assert done.returncode == 0, done.stderr
  after = json.loads((workdir / "results.json").read_text())
  assert after["figures"] == before["figures"]
  assert after["training"] == before["training"]


def test_a_kill_during_the_evaluation_loses_no_figure(config_file, finished):
  """The same command evaluates the finished training and still knows it."""
  workdir, _ = finished
  before = json.loads((workdir / "results.json").read_text())
  (workdir / "results.json").unlink()
  done = _run(config_file, workdir)
  assert done.returncode == 0, done.stderr
  after = json.loads((workdir / "results.json").read_text())
  assert after["figures"] == before["figures"]
  assert after["untrained"] == before["untrained"]
  assert after["training"] == before["training"]
  assert after["training"]["starts"] == 1
  assert after["training"]["last_step"]["loss"] > 0


WRONG = {
  "method": (["--config.method=byol"], "there are: simclr, simsiam"),
  "variant": (
    [":large"],
    "error: unknown config variant 'large'; there are: baseline",
  ),
  "batch": (["--config.batch_size=15"], "divisible by the 2 devices"),
  "data directory": (
    ["--config.data.name=cifar10", "--config.data.dir=/dev/null/tfds"],
    "/dev/null/tfds",
  ),
  "weight": (["--config.equivariance.weight=-1.0"], "at least 0; got -1"),
  "field": (
    ["--config.optimiser.momentum=0.8"],
    "there is no field config.optimiser (did you mean optimizer?)",
  ),
  "field value": (["--config.epochs=many"], "epochs"),
  "group": (["--config.equivariance.group=shear"], "there are: rotation"),
  "flag": (["--confg.epochs=3"], "confg.epochs"),
  "workdir": (["--workdir=/proc/run"], "--workdir"),
  "not a run": (["--config.mode=evaluate"], "holds no run"),
  "config file": (["--config=nothing.py"], "nothing.py does not exist"),
  "config code": ([f"--config={ROOT / 'README.md'}"], "README.md, line"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_and_code_2(name, config_file, tmp_path):
  flags, expected = WRONG[name]
  variant = "".join(flag for flag in flags if flag.startswith(":"))
  flags = [flag for flag in flags if not flag.startswith(":")]
  if name == "batch":
    flags.append("--config.data.train_split=train[:63]")
  environment = _environment()
  if name == "batch":
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
  done = subprocess.run(
    _command(f"{config_file}{variant}", tmp_path / "run", *flags),
    env=environment,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith("error: ")
  assert "Traceback" not in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1, done.stderr
  assert expected in done.stderr


def _save_npz(path, **changes):
  images = np.zeros((40, 16, 16, 3), np.uint8)
  arrays = {
    "train_images": images,
    "train_labels": np.arange(40) % 4,
    "test_images": images,
    "test_labels": np.arange(40) % 4,
  }
  arrays |= changes
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
  return str(path)


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({"test_labels": None}, "test_labels"),
    ({"train_images": np.zeros((40, 16), np.uint8)}, r"\[40, 16\]"),
    ({"train_images": np.zeros((40, 16, 16, 3))}, "float64"),
  ],
)
def test_unfit_arrays_are_refused(changes, expected, tmp_path, tiny_config):
  path = _save_npz(tmp_path / "images.npz", **changes)
  config = tiny_config("simclr", data={"name": path})
  with pytest.raises(UsageError, match=expected):
    train.run(config, tmp_path / "run")


def test_another_architecture_is_refused(finished, config_file):
  workdir, _ = finished
  done = _run(config_file, workdir, "--config.model.width=4")
  assert done.returncode == 2
  assert "model.width is 8 there, 4 here" in done.stderr


def test_a_checkpoint_of_another_network_is_refused(finished, tiny_config):
  """Also where config.json does not tell."""
  config = tiny_config("simclr", model={"width": 4})
  like = experiment_lib.build(config).create_state()
  with (
    checkpoint.Checkpoints(finished[0], read_only=True) as checkpoints,
    pytest.raises(UsageError, match="different network.*encoder"),
  ):
    checkpoints.restore(like)


def test_streams_from_tfds_over_eight_devices(tmp_path, tiny_config):
  """tf.data to results, with the paper's probe."""
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (53, 16, 16, 3), np.uint8)
  data_helpers.write_tfds(
    tmp_path / "data", "patterns", images[:40], images[40:], (16, 16, 3)
  )
  config = tiny_config(
    "simsiam",
    data={"name": "patterns", "dir": str(tmp_path / "data")},
    probe={"protocol": "paper", "epochs": 1, "batch_size": 16},
  )
  train.run(config, tmp_path / "run")
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  assert results["step"] == 4  # two epochs of two batches; eight images left
  assert results["environment"]["device_count"] == 8
  probe = results["figures"]["linear_probe"]
  assert (probe["protocol"], probe["num_test"]) == ("paper", 13)
  hits = [accuracy / 100 * 13 for accuracy in probe["linear_top1_each"]]
  np.testing.assert_allclose(hits, np.round(hits), atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, tiny_config):
  config = tiny_config("simclr", optimizer={"learning_rate": 1e30})
  with pytest.raises(FloatingPointError, match=r"at step \d+.*loss"):
    train.run(config, tmp_path)
  assert not (tmp_path / "results.json").exists()


def test_no_tensorflow_is_imported(config_file, tmp_path):
  """Training from arrays works where TensorFlow is not installed."""
  code = (
    "import sys; sys.modules['tensorflow'] = None;"
    "sys.modules['tensorflow_datasets'] = None;"
    f"sys.argv = {_command(config_file, tmp_path / 'run')[2:]!r};"
    "sys.argv += ['--config.epochs=2', '--config.probe.protocol=none'];"
    "from essl_jax import main; main.run()"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=_environment(),
    capture_output=True,
    text=True,
    timeout=280,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "kNN top-1" in done.stdout
