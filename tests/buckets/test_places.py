"""Files, folders and logs in a bucket, and what is refused."""

import os
import subprocess
import sys

from logger_helpers import logger_of
from orbax.checkpoint._src.path import gcs_utils
import pytest

from essl_jax.errors import UsageError
from essl_jax.storage import bookkeeping, claim, metrics, places


def test_files_and_folders(workdir):
  assert not places.exists(workdir) and places.names(workdir) == []
  places.replace_text(workdir / "a.json", "one")
  places.replace_text(workdir / "a.json", "two")
  places.replace_bytes(workdir / "folder" / "b", b"")
  assert (workdir / "a.json").read_text() == "two"
  assert places.names(workdir) == ["a.json", "folder"]
  assert places.is_folder(workdir / "folder")
  assert not places.is_folder(workdir / "a.json")
  places.rename(workdir / "folder", workdir / "folder.damaged-1")
  assert places.names(workdir) == ["a.json", "folder.damaged-1"]
  assert places.exists(workdir / "folder.damaged-1" / "b")
  with places.local_copy(workdir / "a.json") as copy:
    assert copy.read_text() == "two" and copy.name == "a.json"
  places.remove(workdir / "a.json")
  places.remove(workdir / "a.json")
  places.remove_folder(workdir / "folder.damaged-1")
  assert not places.exists(workdir)


@pytest.mark.parametrize(
  ("path", "told"),
  [
    ("gs://", "names no folder in a bucket: give gs://BUCKET/FOLDER"),
    ("gs://bucket", "names no folder"),
    ("gs://bucket/", "names no folder"),
    ("gcs://bucket/run", r"unknown scheme gcs://: give gs://BUCKET/\.\.\., or"),
    ("gs:/bucket/run", "is not a path in a bucket: give gs://BUCKET/"),
    ("gs:bucket/run", "is not a path in a bucket"),
    ("gs://bucket/a/../run", "has .. in its path"),
    ("http://bucket/run", "unknown scheme http://"),
    ("gs://bucket/a\nb", "printable"),
    ("gs://bucket/" + "a" * 300, "at most"),
  ],
)
def test_paths_that_are_none(path, told):
  with pytest.raises(UsageError, match=told):
    places.locate(path)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_scheme_needs_its_package(scheme, monkeypatch):
  monkeypatch.setattr(places.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UsageError, match=r"needs the package \w+: pip install"):
    places.locate(f"{scheme}://bucket/run")


def test_a_bucket_that_is_not_there(server):
  path = places.locate("gs://no_such_bucket/run")
  with (
    pytest.raises(UsageError, match="no bucket gs://no_such_bucket: create it"),
    claim.hold(path, lambda _: None),
  ):
    raise AssertionError


@pytest.mark.parametrize("kind", ["name", "other name", "costs"])
def test_a_bucket_that_cannot_be_used(kind, workdir, monkeypatch):
  from gcsfs.retry import HttpError  # once the server is set

  error = {
    "name": HttpError({"code": 400, "message": "Invalid bucket name: 'A_b'"}),
    "other name": ValueError("Bad Request: b/A_b/o\ninvalid name"),
    "costs": ValueError("Bucket is requester pays. Set `requester_pays=True`"),
  }[kind]

  def fail(*arguments, **options):
    raise error

  monkeypatch.setattr(places.client(workdir), "ls", fail)
  with (
    pytest.raises(UsageError, match=f"cannot use {workdir} .*choose another"),
    claim.hold(workdir, lambda _: None),
  ):
    raise AssertionError


def test_a_path_that_checkpoints_make_too_long(workdir):
  path = places.locate(workdir / "/".join(["a" * 99] * 9))
  with (
    pytest.raises(UsageError, match="is longer than 800 bytes"),
    claim.hold(path, lambda _: None),
  ):
    raise AssertionError


def test_the_client_is_the_one_that_is_tested():
  """Also where no test sets its variables."""
  pytest.importorskip("gcsfs")
  program = "import essl_jax.storage.places, gcsfs; print(gcsfs.GCSFileSystem)"
  variables = {k: v for k, v in os.environ.items() if "GCSFS" not in k}
  variables.pop("STORAGE_EMULATOR_HOST", None)
  done = subprocess.run(
    [sys.executable, "-c", program],
    env=variables,
    capture_output=True,
    text=True,
    check=True,
  )
  assert "gcsfs.core.GCSFileSystem" in done.stdout


def test_what_is_damaged_is_set_aside(workdir, capsys):
  """By copying; figures that are whole stay."""
  line = '{"step": 1, "loss": 0.5}'
  places.replace_text(workdir / "metrics-0.jsonl", f"{line}\n[1]\n")
  for name in ("results.json", "config.json"):
    places.replace_text(workdir / name, "[")
  bookkeeping.mend(workdir)
  assert places.names(workdir) == [
    "config.json.damaged-1",
    "metrics-0.jsonl",
    "metrics-0.jsonl.damaged-1",
    "results.json.damaged-1",
  ]
  assert metrics.read(workdir) == [{"step": 1, "loss": 0.5}]
  assert capsys.readouterr().out.count("is damaged") == 3


def test_a_refused_start_leaves_no_config(workdir):
  def refuse(path):
    places.replace_text(path / "config.json", "{}")
    raise UsageError("no such data")

  with (
    pytest.raises(UsageError, match="no such data"),
    claim.hold(workdir, refuse),
  ):
    raise AssertionError
  assert places.names(workdir) == [".lease-1"]


def test_a_start_that_fails_later_leaves_its_config(workdir):
  """The config says which run the other files belong to."""

  def begin(path):
    for name in ("config.json", "results.partial.json"):
      places.replace_text(path / name, "{}")

  with pytest.raises(KeyError), claim.hold(workdir, begin):
    raise KeyError
  assert "config.json" in places.names(workdir)


def test_marks_of_killed_programs_are_removed(workdir):
  """These marks show processes that they share a workdir."""
  places.replace_bytes(workdir / ".process-0.77.123.essl.tmp", b"")
  with claim.hold(workdir, lambda _: None):
    assert places.names(workdir) == [".lease-1"]


@pytest.mark.parametrize("kind", ["forbidden", "no project"])
def test_orbax_asks_for_the_kind_of_a_bucket(kind, workdir, monkeypatch):
  """Without permission to ask, the error comes before data are prepared."""
  from google.api_core import exceptions

  error, told = {
    "forbidden": (exceptions.Forbidden("no"), "storage.legacyBucketReader on"),
    "no project": (OSError("Project was not passed"), "GOOGLE_CLOUD_PROJECT"),
  }[kind]

  def fail(name):
    raise error

  monkeypatch.setattr(gcs_utils, "get_bucket", fail)
  with (
    pytest.raises(UsageError, match=told),
    claim.hold(workdir, lambda _: None),
  ):
    raise AssertionError


def test_figures_are_sent_and_joined(workdir):
  """Figures that a start has sent stay, however it ends."""
  with logger_of(workdir, total_steps=9) as logger:
    logger.write(0, {"knn": 1.0})
    logger.write(1, {"loss": 3.0})
    assert metrics.read(workdir) == []
    logger.send()
    assert [x["step"] for x in metrics.read(workdir)] == [0, 1]
    logger.write(2, {"loss": 2.0})
    logger.write(3, {"loss": 1.0})
  with logger_of(workdir, total_steps=9, start_step=2) as logger:
    logger.write(3, {"loss": 0.5})
  assert places.names(workdir) == [
    "metrics-0.jsonl",
    "metrics-2.jsonl",
    "tensorboard",
  ]
  assert len(places.names(workdir / "tensorboard")) == 2
  found = [(x["step"], x.get("loss")) for x in metrics.read(workdir)]
  assert found == [(0, None), (1, 3.0), (2, 2.0), (3, 0.5)]
  assert metrics.at(workdir, 3) == {"loss": 0.5}
  with logger_of(workdir, total_steps=9, start_step=1) as logger:
    logger.write(2, {"loss": 7.0})
  found = [x["step"] for x in metrics.read(workdir)]
  assert found == [0, 1, 2]
  assert os.fspath(workdir / "metrics-2.jsonl") not in map(
    os.fspath, metrics.files(workdir).values()
  )
