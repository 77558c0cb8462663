"""Workdirs that a run holds, leaves unchanged, or cannot use."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import jax
import pytest

from essl_jax.errors import UsageError
from essl_jax.storage import claim, lock, places
from essl_jax.storage import workdir as workdir_lib

HOLDER = """
  import pathlib, sys, time
  from essl_jax.storage import lock
  with lock.alone(pathlib.Path(sys.argv[1]), "refused"):
    print("held", flush=True)
    time.sleep(60)
"""


def nothing(workdir):
  del workdir


def test_a_second_program_is_refused_until_the_first_is_dead(tmp_path):
  """It is refused at once, in one line; kill -9 frees the workdir."""
  root = pathlib.Path(claim.__file__).parents[2]
  holder = subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": str(root)},
  )
  assert holder.stdout.readline() == "held\n"
  before = sorted(os.listdir(tmp_path))
  with (
    pytest.raises(UsageError, match="another program is using") as error,
    claim.hold(tmp_path, nothing),
  ):
    raise AssertionError
  assert "\n" not in str(error.value)
  assert sorted(os.listdir(tmp_path)) == before
  holder.send_signal(signal.SIGKILL)
  holder.communicate()
  with claim.hold(tmp_path, nothing):
    pass


def test_a_process_beside_process_0_holds_nothing(tmp_path, monkeypatch):
  """Process 0 holds the workdir for all processes of a run."""
  with claim.hold(tmp_path, nothing):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with claim.hold(tmp_path, nothing):
      monkeypatch.setattr(
        workdir_lib, "from_process_0", lambda text: "process 0 is refused"
      )
      with (
        pytest.raises(UsageError, match="process 0 is refused"),
        claim.hold(tmp_path, nothing),
      ):
        raise AssertionError


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
  def flock(*arguments):
    raise OSError(95, "Operation not supported")

  monkeypatch.setattr(lock.fcntl, "flock", flock)
  left = tmp_path / "results.json.7.tmp"
  left.touch()
  with claim.hold(tmp_path, nothing):
    (line,) = capsys.readouterr().out.splitlines()
  assert "without locks (Operation not supported)" in line
  assert left.exists()  # another program may be writing it


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_another_kind_of_lock_does_no_harm(kind, tmp_path):
  """A pipe works like a file; a folder is refused."""
  path = tmp_path / ".lock"
  if kind == "pipe":
    os.mkfifo(path)
    with claim.hold(tmp_path, nothing):
      pass
    return
  path.mkdir()
  with (
    pytest.raises(UsageError, match=r"\.lock is a folder,.*: remove it"),
    claim.hold(tmp_path, nothing),
  ):
    raise AssertionError


def test_a_refused_start_leaves_no_workdir(tmp_path):
  """It also leaves no parent folders and no config."""
  workdir = tmp_path / "runs" / "a"

  def refuse(there):
    (there / "config.json").touch()
    (there / "checkpoints").mkdir()
    raise UsageError("wrong batch size")

  with (
    pytest.raises(UsageError, match="wrong batch size"),
    claim.hold(workdir, refuse),
  ):
    raise AssertionError
  assert not list(tmp_path.iterdir())


def test_a_refused_start_leaves_what_was_there(tmp_path):
  (tmp_path / "notes.txt").touch()
  with (
    pytest.raises(UsageError, match="no such data"),
    claim.hold(tmp_path, nothing),
  ):
    (tmp_path / "config.json").touch()
    raise UsageError("no such data")
  assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_that_fails_later_keeps_what_it_wrote(tmp_path):
  with pytest.raises(UsageError), claim.hold(tmp_path / "a", nothing):
    (tmp_path / "a" / "config.json").touch()
    (tmp_path / "a" / "metrics-0.jsonl").write_text("{}\n")
    raise UsageError("a user's evaluation fails")
  names = sorted(path.name for path in (tmp_path / "a").iterdir())
  assert names == [".lock", "config.json", "metrics-0.jsonl"]


def test_half_written_files_of_killed_runs_go(tmp_path):
  """Nobody needs them, since only one process writes there."""
  (tmp_path / "fit").mkdir()
  names = (
    "results.json.7.essl.tmp",
    ".process-0.12.99.essl.tmp",
    "fit/a.npz.7.essl.tmp",
  )
  kept = ("mine.tmp", "data.2024.tmp", "fit/b.npz", "a.7.essl.tmp.txt")
  for name in (*names, *kept):
    (tmp_path / name).touch()
  with claim.hold(tmp_path, nothing):
    for name in names:
      assert not (tmp_path / name).exists()
    for name in kept:
      assert (tmp_path / name).exists()


def test_a_link_in_the_place_of_the_lock_makes_no_file_elsewhere(tmp_path):
  workdir = tmp_path / "run"
  workdir.mkdir()
  (workdir / lock.NAME).symlink_to(tmp_path / "elsewhere")
  with (
    pytest.raises(UsageError, match=r"\.lock is a link,.*: remove it"),
    claim.hold(workdir, nothing),
  ):
    pass
  assert not (tmp_path / "elsewhere").exists()


def test_half_written_files_of_the_living_stay(tmp_path):
  """This holds in folders without a lock, such as those of exports."""
  dead = subprocess.Popen([sys.executable, "-c", ""])
  dead.wait()
  alive, other = f"a.{os.getpid()}.essl.tmp", f"b.{dead.pid}.essl.tmp"
  for name in (alive, other, f"a.{dead.pid}.essl.tmp"):
    (tmp_path / name).touch()
  lock.remove_left_overs(tmp_path, "a")
  assert sorted(x.name for x in tmp_path.iterdir()) == sorted([alive, other])


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127])
def test_names_as_long_as_can_be_are_written(name, tmp_path, monkeypatch):
  """The suffix of half-written files makes no name too long."""
  path = tmp_path / name
  places.replace_text(path, "a")
  assert path.read_text() == "a"
  dead = subprocess.Popen([sys.executable, "-c", ""])
  dead.wait()
  with monkeypatch.context() as patched:
    patched.setattr(os, "getpid", lambda: dead.pid)
    lock.temporary(path).touch()
  lock.temporary(path).touch()
  lock.remove_left_overs(tmp_path, name)
  assert set(tmp_path.iterdir()) == {path, lock.temporary(path)}


@pytest.mark.parametrize(
  "name",
  ["a[b]c", "a]b", "a\\b", "a*", "a?", "a\nb", "a\x1bb", "a\u2028b", b"a\xff"],
)
def test_names_that_checkpoints_cannot_bear_are_refused(name, tmp_path):
  """They are refused before anything is created, in one printable line."""
  workdir = tmp_path / os.fsdecode(name) / "run"
  with (
    pytest.raises(UsageError, match="choose another --workdir") as error,
    claim.hold(workdir, nothing),
  ):
    raise AssertionError
  assert str(error.value).isprintable()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 256, "/".join(["x" * 200] * 20)])
def test_paths_that_are_too_long_are_refused(name, tmp_path):
  with (
    pytest.raises(UsageError, match="choose another --workdir") as error,
    claim.hold(tmp_path / name, nothing),
  ):
    raise AssertionError
  assert "\n" not in str(error.value)
  assert not list(tmp_path.iterdir())


def test_usual_names_are_taken(tmp_path):
  for name in ("a b", "ä日本\u3000", "a%20b", "{a},b;c", "$HOME", "-a", "'\""):
    with claim.hold(tmp_path / name, nothing):
      assert (tmp_path / name / ".lock").exists()


def test_the_home_of_nobody_is_refused():
  with pytest.raises(UsageError, match="home of a user who does not exist"):
    places.locate("~no_such_user_here/run")
