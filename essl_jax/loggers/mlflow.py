"""MLflow, with a tracking server or a folder."""

from collections.abc import Iterator, Mapping, Sequence
import os
import pathlib
import re
import tempfile
from typing import Any

from essl_jax.loggers.logger import Log, Logger, Start, need
from essl_jax.storage.workdir import dotted

_MOST = 100  # parameters that MLflow takes in one call
_LONGEST = 500  # characters of a parameter that all MLflow stores take
_FOLDER = "mlruns"  # MLflow's default folder without a server
# `file:` needs no slashes; Databricks is found by a name and a profile.
_IS_ADDRESS = re.compile(r"\w[\w+.-]*://|file:|databricks(-uc)?$")
# Error codes for runs that are unknown, and for those that were deleted.
_GONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_IN_NAMES = re.compile(r"[^\w./ -]")  # not allowed in MLflow's names


class MLflow(Logger):
  """MLflow; all starts of a run log to one MLflow run.

  Attributes:
    experiment: name of the experiment that the run belongs to.
    uri: the tracking server's address, or a folder. The default is the variable
      `MLFLOW_TRACKING_URI` or, if that is not set, the folder `mlruns`.
  """

  section = "mlflow"

  experiment: str = "essl_jax"
  uri: str | None = None

  def check(self) -> None:
    """Refuses a missing package."""
    need("mlflow", "mlflow")

  def open(self, start: Start) -> Log:
    """Starts a run, or resumes the one whose id was kept."""
    place = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or _FOLDER
    if not _IS_ADDRESS.match(place):  # MLflow warns of folders
      os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
      place = pathlib.Path(place).expanduser().absolute().as_uri()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=place)
    run_id = start.kept.get("id", "")
    try:
      if run_id:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
      if error.error_code not in _GONE:
        raise
      run_id = ""  # the run was removed, or is on another server
    if not run_id:
      run_id = self._create(client, start)
      start.keep({"id": run_id})
    return _Run(client, run_id, place)

  def _create(self, client: Any, start: Start) -> str:
    found = client.get_experiment_by_name(self.experiment)
    number = found.experiment_id if found else None
    number = number or client.create_experiment(self.experiment)
    run_id = client.create_run(number, run_name=start.name).info.run_id
    for params in _params(start.config):
      client.log_batch(run_id, params=params)
    return run_id


def _params(config: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
  from mlflow.entities import Param

  params = [
    Param(_IN_NAMES.sub("_", name), str(value)[:_LONGEST])
    for name, value in dotted(config).items()
  ]
  for first in range(0, len(params), _MOST):
    yield params[first : first + _MOST]


class _Run(Log):
  def __init__(self, client: Any, run_id: str, place: str):
    self._client = client
    self._id = run_id
    self.where = f"run {run_id} at {place}"

  def write(self, step: int, figures: Mapping[str, float], time: float) -> None:
    from mlflow.entities import Metric

    found = [
      Metric(_IN_NAMES.sub("_", name), value, int(1000 * time), step)
      for name, value in figures.items()
    ]
    self._client.log_batch(self._id, metrics=found)

  def picture(self, step: int, name: str, png: bytes) -> None:
    *folders, last = _IN_NAMES.sub("_", name).split("/")
    with tempfile.TemporaryDirectory(prefix="essl_jax_") as folder:
      path = pathlib.Path(folder) / f"{last}-{step}.png"
      path.write_bytes(png)
      where = "/".join(["pictures", *folders])
      self._client.log_artifact(self._id, str(path), where)

  def close(self, is_finished: bool) -> None:
    status = "FINISHED" if is_finished else "KILLED"
    self._client.set_terminated(self._id, status=status)


PART = MLflow
