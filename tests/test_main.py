"""The program as a user runs it: results, resuming, signals, wrong input."""

import io
import json
import shutil
import signal
import subprocess
import time

import event_files
import jax
import numpy as np
from PIL import Image
import program_helpers
import pytest

from essl_jax import main
from essl_jax.errors import UsageError
from essl_jax.storage import checkpoint, metrics
from essl_jax.training import experiment as experiment_lib


@pytest.fixture(scope="module")
def finished(config_file, tmp_path_factory):
  """A whole run: its workdir and what it printed."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  done = program_helpers.run(config_file, workdir)
  assert done.returncode == 0, done.stderr
  return workdir, done.stdout


def _state(workdir):
  """All arrays of the latest checkpoint."""
  with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.restore_arrays(checkpoints.choose("latest"))


def test_a_run_reports_and_writes_everything(finished):
  workdir, printed = finished
  for text in ("kNN top-1, before training", "Linear probe top-1", "rotation"):
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
  _check_tensorboard(workdir)


def _check_tensorboard(workdir):
  """Views, final figures, confusion matrices and the projector are there."""
  values = [
    (event.step, value)
    for event in event_files.read(workdir)
    for value in event.summary.value
  ]
  pictures = {x.tag: (step, x.image) for step, x in values if x.image.height}
  last = max(step for step, _ in values)
  assert {name: step for name, (step, _) in pictures.items()} == {
    "views": 0,
    "final/knn": last,
    "final/transformation": last,
  }
  for _, image in pictures.values():
    shown = Image.open(io.BytesIO(image.encoded_image_string))
    assert shown.size == (image.width, image.height)
  results = json.loads((workdir / "results.json").read_text())
  finals = {x.tag: x.simple_value for _, x in values if "final/" in x.tag}
  accuracy = results["figures"]["knn"]["knn_top1"]
  assert abs(finals["final/kNN_top-1"] - accuracy) < 0.01
  folder = workdir / "tensorboard"
  config = (folder / "projector_config.pbtxt").read_text()
  for name in ("features.tsv", "labels.tsv", "images.png"):
    assert f'"projector/{name}"' in config
  features = np.loadtxt(folder / "projector" / "features.tsv", delimiter="\t")
  labels = (folder / "projector" / "labels.tsv").read_text().split()
  assert len(features) == len(labels) == 40
  assert Image.open(folder / "projector" / "images.png").size == (7 * 32,) * 2


def test_metrics_have_every_term_of_every_step(finished):
  lines = (finished[0] / "metrics-0.jsonl").read_text().splitlines()
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


@pytest.mark.parametrize(
  "kind", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_stopped_run_ends_as_one_that_was_not(
  kind, config_file, finished, tmp_path
):
  """Bit for bit; SIGTERM saves at once and exits with 0."""
  workdir = tmp_path / "run"
  process = subprocess.Popen(
    program_helpers.command(config_file, workdir),
    env=program_helpers.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  _wait_for(workdir / "metrics-0.jsonl", '"step": 9', process)
  process.send_signal(kind)
  printed, errors = process.communicate(timeout=200)
  if kind == signal.SIGTERM:
    assert process.returncode == 0, errors
    assert "stopped by SIGTERM after step" in printed
  done = program_helpers.run(config_file, workdir)
  assert done.returncode == 0, done.stderr
  assert "resuming" in done.stdout
  results = json.loads((workdir / "results.json").read_text())
  assert results["training"]["starts"] == 2
  assert results["training"]["steps"] == 24
  expected, actual = _state(finished[0]), _state(workdir)
  assert actual["step"] == 24
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  steps = [x["step"] for x in metrics.read(workdir) if "loss_ssl" in x]
  assert steps == list(range(1, 25))


def _killed_and_whole(config_file, folder, flags):
  """The last states of a run that was killed once, and of one that was not."""
  whole = program_helpers.run(config_file, folder / "whole", *flags)
  assert whole.returncode == 0, whole.stderr
  workdir = folder / "run"
  process = subprocess.Popen(
    program_helpers.command(config_file, workdir, *flags),
    env=program_helpers.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  _wait_for(workdir / "metrics-0.jsonl", '"step": 9', process)
  process.kill()
  process.communicate(timeout=200)
  done = program_helpers.run(config_file, workdir, *flags)
  assert done.returncode == 0, done.stderr
  assert "resuming" in done.stdout
  expected, actual = _state(folder / "whole"), _state(workdir)
  assert actual["step"] == 24
  return actual, expected


@pytest.mark.slow
@pytest.mark.parametrize("method", ["moco_v3", "dino"])
def test_a_killed_run_with_a_target_network_ends_as_one_that_was_not(
  method, config_file, tmp_path
):
  """Bit for bit, the target and a method's own state too."""
  flags = [
    f"--config.method={method}",
    "--config.projector.widths=32,16",
    "--config.small_views=2",
    "--config.views.small.size=8",
    "--config.views.small.scale=0.1,0.5",
    "--config.evaluations=knn",
  ]
  if method == "dino":
    flags.append("--config.prototypes=24")
  else:
    flags.append("--config.predictor_hidden=16")
  actual, expected = _killed_and_whole(config_file, tmp_path, flags)
  assert actual["target"] is not None
  assert (actual["extra"] is not None) == (method == "dino")
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.slow
def test_a_killed_run_with_terms_ends_as_one_that_was_not(
  config_file, tmp_path
):
  """Bit for bit, and its measures; draws that images share begin again."""
  flags = [
    "--config.terms=prediction,sie,stl",
    "--config.sie.equivariant_features=4",
    "--config.sie.invariant_projector=12,12",
    "--config.sie.equivariant_projector=8,8",
    "--config.evaluations=knn,probe,parameters,ranks",
    "--config.measures.images=40",
    "--config.parameters.pairs=1",
    "--config.ranks.candidates=10",
    "--config.ranks.images=20",
  ]
  actual, expected = _killed_and_whole(config_file, tmp_path, flags)
  assert {"sie_hypernetwork", "stl_hypernetwork"} < set(actual["params"])
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  figures = [
    json.loads((tmp_path / x / "results.json").read_text())["figures"]
    for x in ("run", "whole")
  ]
  assert figures[0]["parameters"] == figures[1]["parameters"]
  assert set(figures[0]["ranks"]) == {"sie"}
  assert figures[0]["ranks"] == figures[1]["ranks"]


@pytest.mark.parametrize(("is_done", "code"), [(True, 0), (False, 75)])
def test_a_stopped_run_may_have_a_code_of_its_own(
  is_done, code, config_file, tmp_path, monkeypatch, capsys
):
  """A launcher that counts exits with 0 would take it for a finished one."""
  monkeypatch.setattr(main.run_lib, "run", lambda *_: is_done)
  words = (config_file, tmp_path / "run", "--stop_code=75")
  assert not program_helpers.refusal(monkeypatch, capsys, *words, code=code)


def test_evaluate_mode_repeats_the_figures(config_file, finished):
  workdir, _ = finished
  before = json.loads((workdir / "results.json").read_text())
  done = program_helpers.run(config_file, workdir, "--config.mode=evaluate")
  assert done.returncode == 0, done.stderr
  after = json.loads((workdir / "results.json").read_text())
  assert after["figures"] == before["figures"]
  assert after["training"] == before["training"]


def test_a_kill_during_the_evaluation_loses_no_figure(config_file, finished):
  """The same command evaluates the finished training and still knows it."""
  workdir, _ = finished
  before = json.loads((workdir / "results.json").read_text())
  (workdir / "results.json").unlink()
  done = program_helpers.run(config_file, workdir)
  assert done.returncode == 0, done.stderr
  after = json.loads((workdir / "results.json").read_text())
  assert after["figures"] == before["figures"]
  assert after["untrained"] == before["untrained"]
  assert after["training"] == before["training"]
  assert after["training"]["starts"] == 1
  assert after["training"]["last_step"]["loss"] > 0


@pytest.mark.slow
def test_a_run_goes_on_from_before_a_damaged_checkpoint(
  config_file, finished, tmp_path
):
  """To the same arrays; `tests/storage/test_damage.py` has its parts."""
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  folder = workdir / "checkpoints"
  assert len(list(folder.iterdir())) > 1
  files = (folder / "24" / "state").rglob("d/*")
  largest = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  done = program_helpers.run(config_file, workdir)
  assert done.returncode == 0, done.stderr
  assert "step 24 is damaged" in done.stdout
  assert "renamed to 24.damaged-1" in done.stdout
  assert not done.stderr
  jax.tree.map(
    np.testing.assert_array_equal, _state(workdir), _state(finished[0])
  )


def test_another_architecture_is_refused(
  finished, config_file, monkeypatch, capsys
):
  words = config_file, finished[0], "--config.encoder.width=4"
  told = program_helpers.refusal(monkeypatch, capsys, *words)
  assert "encoder.width is 8 there, 4 here" in told


def test_a_lost_config_is_replaced_only_by_one_that_fits(
  finished, config_file, tmp_path, monkeypatch, capsys
):
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  (workdir / "config.json").unlink()
  words = config_file, workdir, "--config.encoder.width=4"
  told = program_helpers.refusal(monkeypatch, capsys, *words)
  assert "holds a different network" in told
  assert not (workdir / "config.json").exists()


def test_a_checkpoint_of_another_network_is_refused(finished, tiny_config):
  """Also where config.json does not tell."""
  config = tiny_config("simclr", encoder={"width": 4})
  like = experiment_lib.build(config).create_state()
  with (
    checkpoint.Checkpoints(finished[0], read_only=True) as checkpoints,
    pytest.raises(UsageError, match="different network.*encoder"),
  ):
    checkpoints.restore(like)
