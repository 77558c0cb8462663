"""Wrong input to the program, other sources, and what it must not import."""

import dataclasses
import json
import subprocess
import sys

import data_helpers
import numpy as np
import program_helpers
import pytest

from essl_jax import config as config_lib
from essl_jax import run as train
from essl_jax.errors import UsageError
from essl_jax.storage import lock

WRONG = {
  "method": (
    ["--config.method=byoll"],
    "unknown config.method 'byoll'; there are: barlow_twins, byol, dino,",
  ),
  "prototypes": (
    ["--config.prototypes=9"],
    "there is no field config.prototypes",
  ),
  "small views": (
    ["--config.method=none", "--config.small_views=2"],
    "there is no field config.small_views",
  ),
  "teacher": (
    ["--config.method=dino", "--config.teacher_temperature=0"],
    "config.teacher_temperature must be above 0; got 0",
  ),
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
  "group of fields": (
    ["--config.encoder=resnet"],
    "config.encoder is a group of fields: set one of config.encoder.name",
  ),
  "field value": (["--config.epochs=many"], "epochs"),
  "group": (["--config.equivariance.group=shear"], "there are: rotation"),
  "flag": (["--confg.epochs=3"], "confg.epochs"),
  "workdir": (["--workdir=/proc/run"], "--workdir"),
  "empty workdir": (["--workdir="], "--workdir is empty"),
  "empty field": (["--config.init_from="], "config.init_from is empty"),
  "endless flags": (
    ["--flagfile=/dev/zero"],
    "--flagfile=/dev/zero is not a file",
  ),
  "not a run": (["--config.mode=evaluate"], "holds no run"),
  "config file": (["--config=nothing.py"], "nothing.py does not exist"),
  "no Python": (
    [f"--config={program_helpers.ROOT / 'README.md'}"],
    "README.md is not a Python file",
  ),
  "config code": ([], "broken.py, line 1: "),
}


# Whole processes where JAX's devices or the end of the program matter.
IN_PROCESSES = ("batch", "config code", "flag")


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_and_code_2(
  name, config_file, tmp_path, monkeypatch, capsys
):
  flags, expected = WRONG[name]
  variant = "".join(flag for flag in flags if flag.startswith(":"))
  flags = [flag for flag in flags if not flag.startswith(":")]
  if name == "config code":
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(\n  return 3 +\n")
    flags.append(f"--config={broken}")
  if name == "batch":
    flags.append("--config.data.train_split=train[:63]")
  words = f"{config_file}{variant}", tmp_path / "run", *flags
  if name in IN_PROCESSES:
    done = subprocess.run(
      program_helpers.command(*words),
      env=program_helpers.environment(devices=2),
      capture_output=True,
      text=True,
      timeout=120,
      check=False,
    )
    assert done.returncode == 2, done.stderr
    told = done.stderr
  else:
    told = program_helpers.refusal(monkeypatch, capsys, *words)
  assert told.startswith("error: ")
  assert "Traceback" not in told
  assert len(told.strip().splitlines()) == 1, told
  assert expected in told
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "error", [MemoryError(), OSError(28, "No space left on device")]
)
def test_trouble_is_one_line_and_code_1(
  error, config_file, tmp_path, monkeypatch, capsys
):
  """For disks, memory and platforms."""

  def fail(*_):
    raise error

  monkeypatch.setattr(train, "run", fail)
  words = config_file, tmp_path / "run"
  told = program_helpers.refusal(monkeypatch, capsys, *words, code=1)
  assert told.startswith(
    "error: n" if type(error) is MemoryError else "error: N"
  )
  assert len(told.splitlines()) == 1


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


def test_help_may_be_cut_by_its_reader(tmp_path):
  """As of `--help | head`."""
  recipe = program_helpers.ROOT / "configs" / "quickstart.py"
  with subprocess.Popen(
    program_helpers.command(recipe, tmp_path / "run", "--help"),
    env=program_helpers.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 0)


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


def test_an_unfit_probe_is_refused_before_training(tmp_path, tiny_config):
  """It leaves no files, so the next start may have another config."""
  config = tiny_config(probe={"protocol": "paper", "batch_size": 15})
  with pytest.raises(UsageError, match=r"config.probe.batch_size 15 is not"):
    train.run(config, tmp_path / "run")
  assert not list(tmp_path.iterdir())


def test_a_foreign_workdir_is_refused_before_data_are_prepared(
  tmp_path, tiny_config
):
  (tmp_path / "checkpoints" / "4").mkdir(parents=True)
  (tmp_path / "config.json").write_text('{"seed": 7}')
  config = tiny_config(data={"name": "no_such_set"})
  with pytest.raises(UsageError, match="holds a run with another config"):
    train.run(config, tmp_path)


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_a_workdir_without_its_checkpoints_is_not_begun_anew(
  mode, tmp_path, tiny_config
):
  """Before data are read; its figures stay."""
  (tmp_path / "checkpoints").mkdir()
  config = tiny_config(data={"name": "no_such_set"}, mode=mode)
  text = json.dumps(config_lib.to_dict(config))
  (tmp_path / "config.json").write_text(text)
  (tmp_path / "starts.json").write_text("[]")
  (tmp_path / "metrics-0.jsonl").write_text('{"step": 8}\n')
  with pytest.raises(UsageError, match="holds a trained run .*are gone"):
    train.run(config, tmp_path)
  assert (tmp_path / "metrics-0.jsonl").read_text() == '{"step": 8}\n'


@pytest.mark.parametrize("mode", ["train", "evaluate", "finetune"])
def test_a_second_program_in_a_workdir_is_refused(mode, tmp_path, tiny_config):
  """In any mode, and before data are read."""
  config = tiny_config(data={"name": "no_such_set"}, mode=mode)
  with (
    lock.alone(tmp_path, ""),
    pytest.raises(UsageError, match="another program is using workdir"),
  ):
    train.run(config, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, tiny_config):
  config = tiny_config("simclr")
  fast = dataclasses.replace(config.optimizer, learning_rate=1e30)
  config = dataclasses.replace(config, optimizer=fast)
  with pytest.raises(FloatingPointError, match=r"at step \d+.*loss"):
    train.run(config, tmp_path)
  assert not (tmp_path / "results.json").exists()


def test_no_tensorflow_is_imported(config_file, tmp_path):
  """Training from arrays works where TensorFlow is not installed."""
  command = program_helpers.command(config_file, tmp_path / "run")
  code = (
    "import sys; sys.modules['tensorflow'] = None;"
    "sys.modules['tensorflow_datasets'] = None;"
    f"sys.argv = {command[2:]!r};"
    "sys.argv += ['--config.epochs=2', '--config.probe.protocol=none'];"
    "from essl_jax import main; main.run()"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=program_helpers.environment(),
    capture_output=True,
    text=True,
    timeout=280,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "kNN top-1" in done.stdout
