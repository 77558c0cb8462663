"""Runs from Python: their config and their return values."""

import json

import program_helpers
import pytest

import essl_jax
from essl_jax.api import runs
from essl_jax.errors import UsageError
from essl_jax.storage import workdir as workdir_lib


@pytest.fixture
def started(monkeypatch):
  """Records what runs are started with, instead of running them."""
  found = []

  def run(config, workdir, agree, told):
    found.append((config, workdir, told))
    workdir.mkdir(parents=True, exist_ok=True)
    figures = {"figures": {"knn": {"knn_top1": 50.0}}, "step": 7}
    (workdir / "results.json").write_text(json.dumps(figures))
    return True

  monkeypatch.setattr(runs.run_lib, "run", run)
  monkeypatch.setattr(runs.cpu, "tune", lambda: None)
  return found


def test_training_takes_a_name_and_fields(started, tmp_path):
  run = essl_jax.train(
    "cifar_simclr:small",
    workdir=tmp_path / "run",
    data={"name": "digits"},
    epochs=2,
    knn={"k": [5, 20]},
  )
  ((config, workdir, told),) = started
  assert config.data.name == "digits" and config.epochs == 2
  # The digits do not have CIFAR-10's splits.
  assert config.data.train_split == "train" and config.encoder.width == 16
  assert config.knn.k == (5, 20)
  assert str(workdir) == run.workdir == str(tmp_path / "run")
  assert told["recipe"] == "cifar_simclr:small"
  assert "--config.data.name=digits" in told["overrides"]
  assert run.figures["knn"]["knn_top1"] == 50 and run.step == 7


def test_stopped_runs_have_no_figures(started, tmp_path, monkeypatch):
  run = essl_jax.train("quickstart", workdir=tmp_path / "run")
  assert run.figures and run.step == 7
  monkeypatch.setattr(runs.run_lib, "run", lambda *_: False)
  run = essl_jax.train("quickstart", workdir=tmp_path / "run")
  assert not run.is_finished and not run.figures and run.step is None


def test_the_workdir_is_named_after_the_recipe(started, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run = essl_jax.train("quickstart:baseline")
  assert run.workdir == str(tmp_path / "runs" / "quickstart-baseline")


def test_evaluating_takes_the_runs_own_config(
  started, tiny_config, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  before = tiny_config(seed=5)
  workdir_lib.check_config(tmp_path / "run", runs.config_lib.to_dict(before))
  essl_jax.evaluate(tmp_path / "run", probe={"epochs": 4})
  ((config, workdir, told),) = started
  assert config.mode == "evaluate" and config.seed == 5
  assert config.probe.epochs == 4 and not told
  assert config.knn == before.knn
  with pytest.raises(UsageError, match="did you mean epochs"):
    essl_jax.evaluate("run", probe={"epoch": 4})
  with pytest.raises(UsageError, match="holds no run"):
    essl_jax.evaluate(tmp_path / "nowhere")


def test_wrong_fields_are_one_line(started, tmp_path):
  for fields, expected in (
    ({"epoch": 3}, "did you mean epochs"),
    ({"epochs": "three"}, "must be int"),
    ({"data": 3}, "group of fields"),
    ({"data": {}}, "no field"),
    ({"knn": {"k": 0}}, "at least 1"),
  ):
    with pytest.raises(UsageError, match=expected) as error:
      essl_jax.train("quickstart", workdir=tmp_path, **fields)
    assert "\n" not in str(error.value)
  assert not started


def test_recipes_say_what_they_are():
  found = essl_jax.recipes()
  assert {"quickstart", "folder", "cifar_simclr"} <= set(found)
  assert all(found.values())


@pytest.mark.slow
def test_a_run_from_python_is_one_of_the_program(config_file, tmp_path):
  run = essl_jax.train(config_file, workdir=tmp_path / "python", epochs=2)
  done = program_helpers.run(
    config_file, tmp_path / "program", "--config.epochs=2"
  )
  assert done.returncode == 0, done.stderr
  text = (tmp_path / "program" / "results.json").read_text()
  expected = json.loads(text)["figures"]
  assert set(run.figures) == set(expected)
  assert run.figures["knn"]["k"] == expected["knn"]["k"]
  again = essl_jax.evaluate(run, knn={"k": 5})
  assert again.figures["knn"]["k"] == 5
  assert run.load().metadata["figures"]["knn"]["k"] == 5
