"""The config of a workdir, and workdirs that cannot be used."""

import pytest

from essl_jax import launcher
from essl_jax.errors import UsageError
from essl_jax.storage import checkpoint
from essl_jax.storage import workdir as workdir_lib


def test_config_is_written_once_and_compared(tmp_path):
  config = {
    "seed": 0,
    "encoder": {"width": 64, "stages": (2, 2)},
    "logging": {"every": 10},
    "loggings": 1,
  }
  workdir = tmp_path / "runs" / "a"
  checkpoint.check_config(workdir, config)
  assert checkpoint.read_config(workdir)["encoder"] == {
    "width": 64,
    "stages": [2, 2],
  }
  assert [path.name for path in workdir.iterdir()] == ["config.json"]
  checkpoint.check_config(workdir, config)
  other = {
    "seed": 1,
    "encoder": {"width": 16, "stages": (2, 2), "stem": "cifar"},
    "logging": {"every": 20},
  }
  with pytest.raises(UsageError) as error:
    checkpoint.check_config(workdir, other, ignore=["logging", "seed"])
  assert str(error.value) == (
    f"workdir {workdir} holds a run with another config: "
    'encoder.width is 64 there, 16 here; encoder.stem is absent there, "cifar" '
    "here; loggings is 1 there, absent here: choose another --workdir or "
    "restore these fields"
  )
  with pytest.raises(UsageError, match="logging.every is 10 there, 20 here"):
    checkpoint.check_config(workdir, other, ignore=["logging.ever"])
  assert checkpoint.read_config(workdir)["seed"] == 0


def test_a_field_newer_than_the_run_may_stay_unset(tmp_path):
  checkpoint.check_config(tmp_path, {"seed": 0})
  checkpoint.check_config(tmp_path, {"seed": 0, "init_from": None})
  with pytest.raises(UsageError, match='init_from is absent there, "a" here'):
    checkpoint.check_config(tmp_path, {"seed": 0, "init_from": "a"})
  with pytest.raises(UsageError, match="seed is 0 there, null here"):
    checkpoint.check_config(tmp_path, {"seed": None})


def test_unusable_workdirs_are_told_in_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  below = tmp_path / "file" / "run"
  with pytest.raises(UsageError, match="Not a directory.*choose another") as e:
    checkpoint.check_config(below, {})
  assert "\n" not in str(e.value)
  with pytest.raises(UsageError, match="File exists.*choose another"):
    checkpoint.check_config(tmp_path / "file", {})
  with pytest.raises(UsageError, match="no local path: mount"):
    checkpoint.check_config("gs://bucket/run", {})
  for path in (below, tmp_path, tmp_path / "nowhere"):
    with pytest.raises(UsageError, match="holds no run"):
      checkpoint.read_config(path)
  (tmp_path / "config.json").write_text('{"seed": ')
  with pytest.raises(UsageError, match="cannot read .*config.json"):
    checkpoint.read_config(tmp_path)


class _Process:
  """One of two processes; `others` gives what all say to what this says."""

  def __init__(self, index, others):
    self.place = launcher.Place("localhost:1", 2, index)
    self.exchange = others


def test_a_workdir_that_is_not_shared_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(workdir_lib, "_SHARED_SECONDS", 0.3)
  folder = tmp_path / "run"
  workdir_lib.check_shared(folder, _Process(0, lambda mine: [mine, mine]))
  blind = lambda mine: [mine, mine if isinstance(mine, tuple) else False]
  with pytest.raises(UsageError, match="process 1 does not see") as caught:
    workdir_lib.check_shared(folder, _Process(0, blind))
  assert "not shared" in str(caught.value)
  assert not list(folder.iterdir())
  # Process 1, where process 0 has written into another folder.
  said = []
  elsewhere = lambda mine: (
    said.append(mine)
    or ([(".process-0.1.tmp", ""), mine] if len(said) == 1 else [True, mine])
  )
  with pytest.raises(UsageError, match="process 1 does not see"):
    workdir_lib.check_shared(folder, _Process(1, elsewhere))
  assert said[1] is False
  refused = lambda mine: [("x", "cannot write to workdir"), mine]
  with pytest.raises(UsageError, match="cannot write"):
    workdir_lib.check_shared(folder, _Process(1, refused))
