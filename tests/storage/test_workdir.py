"""The config of a workdir, and workdirs that cannot be used."""

import os

import jax
import numpy as np
import pytest

from essl_jax.errors import UsageError
from essl_jax.storage import places
from essl_jax.storage import workdir as workdir_lib

pytestmark = pytest.mark.quick


def test_config_is_written_once_and_compared(tmp_path):
  config = {
    "seed": 0,
    "encoder": {"width": 64, "stages": (2, 2)},
    "logging": {"every": 10},
    "loggings": 1,
  }
  workdir = tmp_path / "runs" / "a"
  workdir_lib.check_config(workdir, config)
  assert workdir_lib.read_config(workdir)["encoder"] == {
    "width": 64,
    "stages": [2, 2],
  }
  assert [path.name for path in workdir.iterdir()] == ["config.json"]
  workdir_lib.check_config(workdir, config)
  other = {
    "seed": 1,
    "encoder": {"width": 16, "stages": (2, 2), "stem": "cifar"},
    "logging": {"every": 20},
  }
  with pytest.raises(UsageError) as error:
    workdir_lib.check_config(workdir, other, ignore=["logging", "seed"])
  assert str(error.value) == (
    f"workdir {workdir} holds a run with another config: "
    'encoder.width is 64 there, 16 here; encoder.stem is absent there, "cifar" '
    "here; loggings is 1 there, absent here: choose another --workdir or "
    "restore these fields"
  )
  with pytest.raises(UsageError, match="logging.every is 10 there, 20 here"):
    workdir_lib.check_config(workdir, other, ignore=["logging.ever"])
  assert workdir_lib.read_config(workdir)["seed"] == 0


def test_a_field_newer_than_the_run_may_stay_unset(tmp_path):
  workdir_lib.check_config(tmp_path, {"seed": 0})
  workdir_lib.check_config(tmp_path, {"seed": 0, "init_from": None})
  workdir_lib.check_config(tmp_path, {"seed": 0.0})  # compares numbers
  with pytest.raises(UsageError, match='init_from is absent there, "a" here'):
    workdir_lib.check_config(tmp_path, {"seed": 0, "init_from": "a"})
  with pytest.raises(UsageError, match="seed is 0 there, null here"):
    workdir_lib.check_config(tmp_path, {"seed": None})


def test_unusable_workdirs_are_told_in_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  below = tmp_path / "file" / "run"
  with pytest.raises(UsageError, match="Not a directory.*choose another") as e:
    workdir_lib.check_config(below, {})
  assert "\n" not in str(e.value)
  with pytest.raises(UsageError, match="File exists.*choose another"):
    workdir_lib.check_config(tmp_path / "file", {})
  with pytest.raises(UsageError, match="unknown scheme gcs://: give gs://"):
    workdir_lib.check_config("gcs://bucket/run", {})
  for path in (below, tmp_path, tmp_path / "nowhere"):
    with pytest.raises(UsageError, match="holds no run"):
      workdir_lib.read_config(path)
  (tmp_path / "config.json").write_text('{"seed": ')
  with pytest.raises(UsageError, match="cannot read .*config.json"):
    workdir_lib.read_config(tmp_path)


def test_a_workdir_that_is_not_shared_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(workdir_lib, "SHARED_SECONDS", 0.3)
  folder = tmp_path / "run"
  from_process_0 = {}  # by the text of this process
  others = []  # whether process 1 - i sees the file

  def be(index):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(
      workdir_lib,
      "from_process_0",
      lambda text: text if index == 0 else from_process_0[bool(text)],
    )
    monkeypatch.setattr(
      workdir_lib.multihost_utils,
      "process_allgather",
      lambda mine: np.array([[1 - index, others.pop(0)], mine]),
    )

  be(0)
  others += [True, False]
  workdir_lib.check_shared(folder)
  with pytest.raises(UsageError, match="not shared: process 1 does not see"):
    workdir_lib.check_shared(folder)
  assert not list(folder.iterdir())
  # Process 1, if process 0 has written into another folder.
  be(1)
  others += [True]
  from_process_0 |= {False: "", True: ".process-0.1.tmp"}
  with pytest.raises(UsageError, match="not shared: process 1 does not see"):
    workdir_lib.check_shared(folder)
  (folder / ".process-0.1.tmp").touch()
  others += [True]
  workdir_lib.check_shared(folder)
  from_process_0[False] = "cannot write to workdir"
  with pytest.raises(UsageError, match="cannot write"):
    workdir_lib.check_shared(folder)
  assert not others


def test_a_workdir_that_process_0_cannot_write_is_refused(
  tmp_path, monkeypatch
):
  (tmp_path / "file").write_text("")
  monkeypatch.setattr(workdir_lib, "from_process_0", lambda text: text)
  with pytest.raises(UsageError, match="cannot write .*choose another"):
    workdir_lib.check_shared(tmp_path / "file" / "run")


def test_no_file_takes_the_place_of_a_device(tmp_path):
  """As root, a file would even replace /dev/null."""
  os.mkfifo(tmp_path / "pipe")
  os.symlink("/dev/null", tmp_path / "link")
  for name in ("pipe", "link"):
    before = os.lstat(tmp_path / name)
    with pytest.raises(OSError, match="a pipe or device is there"):
      places.replace_text(tmp_path / name, "a")
    assert os.path.samestat(before, os.lstat(tmp_path / name))
  assert len(list(tmp_path.iterdir())) == 2
