"""MLflow: with a stand-in for its package, and itself in a folder."""

import importlib
import json
import math
import sys
import time
import types

import pytest

from essl_jax.loggers import logger, several
from essl_jax.storage import places

mlflow_part = importlib.import_module("essl_jax.loggers.mlflow")


class GoneError(Exception):
  """MLflow's error, by default for a removed run."""

  error_code = "RESOURCE_DOES_NOT_EXIST"


class Client:
  """Stands in for MLflow's client."""

  def __init__(self, module, tracking_uri):
    self.calls, self.module, self.uri = [], module, tracking_uri
    module.clients.append(self)

  def update_run(self, run_id, status):
    """Resumes an existing run."""
    self.calls.append(("update", run_id, status))
    if run_id not in self.module.there:
      raise GoneError(run_id)

  def get_experiment_by_name(self, name):
    """Returns None: there is no experiment yet."""

  def create_experiment(self, name):
    """Its number."""
    return f"number of {name}"

  def create_run(self, experiment, run_name):
    """A run of the next number."""
    self.calls.append(("create", experiment, run_name))
    self.module.there.append(f"id{len(self.module.there)}")
    info = types.SimpleNamespace(run_id=self.module.there[-1])
    return types.SimpleNamespace(info=info)

  def log_batch(self, run_id, metrics=(), params=()):
    """Figures, or parameters."""
    self.calls += [(run_id, *x) for x in (*metrics, *params)]

  def log_artifact(self, run_id, path, folder):
    """A file."""
    with open(path, "rb") as file:
      name = path.rpartition("/")[2]
      self.calls.append((run_id, folder, name, file.read()))

  def set_terminated(self, run_id, status):
    """The end."""
    self.calls.append((run_id, status))


@pytest.fixture
def fake(monkeypatch):
  """The package."""
  module = types.ModuleType("mlflow")
  module.there, module.clients = [], []
  module.MlflowClient = lambda tracking_uri: Client(module, tracking_uri)
  exceptions, entities = types.ModuleType("e"), types.ModuleType("f")
  exceptions.MlflowException = GoneError
  entities.Param = entities.Metric = lambda *words: words
  monkeypatch.setitem(sys.modules, "mlflow", module)
  monkeypatch.setitem(sys.modules, "mlflow.exceptions", exceptions)
  monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
  monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
  return module


@pytest.mark.quick
def test_one_run_goes_on_until_it_is_removed(fake, tmp_path, monkeypatch):
  kept = {}
  start = logger.Start(
    folder=tmp_path,
    name="run",
    step=None,
    config={"knn": {"k": (1, 2)}, "text": "x" * 900},
    kept=kept,
    keep=kept.update,
  )
  monkeypatch.chdir(tmp_path)
  log = mlflow_part.PART().open(start)
  log.write(5, {"final/kNN top-5, k = 2": 0.5}, 2.0)
  log.picture(5, "final/knn", b"PNG")
  log.close(is_finished=True)
  (client,) = fake.clients
  assert client.uri == (tmp_path / "mlruns").as_uri()
  assert client.calls == [
    ("create", "number of essl_jax", "run"),
    ("id0", "knn.k", "(1, 2)"),
    ("id0", "text", "x" * 500),
    ("id0", "final/kNN top-5_ k _ 2", 0.5, 2000, 5),
    ("id0", "pictures/final", "knn-5.png", b"PNG"),
    ("id0", "FINISHED"),
  ]
  assert log.where == f"run id0 at {client.uri}"
  monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
  mlflow_part.PART().open(start).close(is_finished=False)
  client = fake.clients[-1]
  assert client.uri == "https://mlflow.example.org"
  assert client.calls == [("update", "id0", "RUNNING"), ("id0", "KILLED")]
  fake.there[0] = "removed"
  log = mlflow_part.PART(uri="/other").open(start)
  assert fake.clients[-1].uri == "file:///other"
  assert kept == {"id": "id1"}


@pytest.mark.quick
def test_a_server_in_trouble_begins_no_second_run(fake, tmp_path, monkeypatch):
  monkeypatch.setattr(GoneError, "error_code", "TEMPORARILY_UNAVAILABLE")
  start = logger.Start(tmp_path, "run", 3, {}, {"id": "id9"}, lambda kept: None)
  with pytest.raises(GoneError):
    mlflow_part.PART().open(start)
  assert fake.clients[-1].calls == [("update", "id9", "RUNNING")]


def begun(folder):
  """The information for a logger of a new run."""
  return logger.Start(folder, "run", None, {}, {}, lambda kept: None)


@pytest.mark.quick
@pytest.mark.parametrize(
  "uri", ["databricks", "databricks://mine", "file:/runs", "sqlite:///a.db"]
)
def test_an_address_is_not_taken_for_a_folder(fake, tmp_path, uri):
  mlflow_part.PART(uri=uri).open(begun(tmp_path))
  assert fake.clients[-1].uri == uri


@pytest.mark.quick
def test_a_folder_may_be_in_the_users_home(fake, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  mlflow_part.PART(uri="~/logs").open(begun(tmp_path))
  assert fake.clients[-1].uri == (tmp_path / "logs").as_uri()


@pytest.mark.slow
def test_mlflow_itself_in_a_folder_goes_on_with_a_run(
  tmp_path, monkeypatch, tiny_config
):
  reason = "mlflow is not installed: pip install 'essl-jax[mlflow]'"
  mlflow = pytest.importorskip("mlflow", reason=reason)
  monkeypatch.setattr(several, "END_SECONDS", 120)
  place = tmp_path / "store"
  config = tiny_config(loggers=("mlflow",), mlflow={"uri": str(place)})
  several.check(config)
  workdir = tmp_path / "run"
  for begin in (0, 3):
    said = []
    with several.Loggers(
      config, places.locate(workdir), say=said.append
    ) as loggers:
      loggers.begin(begin)
      for step in range(begin + 1, begin + 4):
        figures = {"loss": step / 7, "kNN, k = 2": math.nan}
        loggers.write(step, figures, time.time())
      loggers.picture(begin, "final/knn", b"PNG")
      loggers.finish()
    assert [line[:12] for line in said] == ["mlflow: run "]
  kept = json.loads((workdir / "loggers.json").read_text())
  run_id = kept["mlflow"]["id"]
  client = mlflow.MlflowClient(tracking_uri=place.as_uri())
  found = client.get_metric_history(run_id, "loss")
  assert [(x.step, x.value) for x in found] == [(k, k / 7) for k in range(1, 7)]
  run = client.get_run(run_id)
  assert run.info.status == "FINISHED"
  assert run.data.params["method"] == "simsiam"
  names = {x.path for x in client.list_artifacts(run_id, "pictures/final")}
  assert names == {f"pictures/final/knn-{step}.png" for step in (0, 3)}
