"""Damaged files of a workdir, and workdirs that start over."""

import json
import os

import pytest

from essl_jax.errors import UsageError
from essl_jax.storage import bookkeeping, json_files, starts

pytestmark = pytest.mark.quick
START = {
  "start_step": 0,
  "end_step": 8,
  "wall_seconds": 3.0,
  "timed_steps": 7,
  "timed_seconds": 2.0,
}
RESULTS = {"step": 8, "figures": {"knn": {"knn_top1": 50.0}}, "training": {}}
METRICS = '{"step": 4, "loss": 2.5}\n{"step": 8, "loss": null}\n'


@pytest.fixture
def workdir(tmp_path):
  """The intact workdir of a trained run."""
  (tmp_path / "checkpoints" / "8").mkdir(parents=True)
  (tmp_path / "tensorboard").mkdir()
  (tmp_path / "config.json").write_text('{"seed": 0}')
  (tmp_path / "starts.json").write_text(json.dumps([START]))
  (tmp_path / "results.json").write_text(json.dumps(RESULTS))
  (tmp_path / "results.partial.json").write_text(json.dumps(RESULTS))
  (tmp_path / "metrics-0.jsonl").write_text(METRICS)
  (tmp_path / "summary.png").write_bytes(b"PNG")
  return tmp_path


def _names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_sound_workdir_stays_as_it_is(workdir, capsys):
  """So does a last line of metrics that a kill cut off."""
  path = workdir / "metrics-0.jsonl"
  path.write_text(METRICS + '{"step": 9, "lo')
  before = _names(workdir)
  bookkeeping.mend(workdir)
  assert _names(workdir) == before
  assert len(json_files.read_lines(path)) == 2
  assert not capsys.readouterr().out


WRONG = {
  "empty": "",
  "cut": '[{"start_step": 0',
  "another type": '"text"',
  "null": "null",
  "numbers": "[1, 2]",
  "deep": "[" * 100_000,
  "binary": b"\xff\xfe\x00",
}


@pytest.mark.parametrize(
  "name", ["starts.json", "results.json", "results.partial.json"]
)
@pytest.mark.parametrize("what", WRONG)
def test_damaged_bookkeeping_is_set_aside(name, what, workdir, capsys):
  """It is renamed, with one line; nothing is lost and nothing fails."""
  content = WRONG[what]
  content = content if isinstance(content, bytes) else content.encode()
  for i in (1, 2):
    (workdir / name).write_bytes(content)
    bookkeeping.mend(workdir)
    assert not (workdir / name).exists()
    aside = workdir / f"{name}.damaged-{i}"
    assert aside.read_bytes() == content
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"warning: {workdir / name} is damaged (")
    assert line.endswith(f"it is now {aside.name}")


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("starts.json", [{}]),
    ("starts.json", [START | {"end_step": "8"}]),
    ("starts.json", [START | {"timed_seconds": 0}]),
    ("starts.json", [START | {"wall_seconds": float("inf")}]),
    ("starts.json", [START | {"wall_seconds": 10**400}]),
    ("results.json", RESULTS | {"figures": []}),
    ("results.json", RESULTS | {"figures": {"knn": 3}}),
    ("results.json", RESULTS | {"rows": None}),
    ("metrics-0.jsonl", {"step": "8"}),
    ("metrics-0.jsonl", {"loss": 1.0}),
    ("metrics-0.jsonl", {"step": 1, "loss": "low"}),
    ("metrics-0.jsonl", {"step": -5, "loss": 1.0}),
    ("metrics-0.jsonl", {"step": 1.5, "loss": 1.0}),
    ("metrics-0.jsonl", {"step": True, "loss": 1.0}),
  ],
)
def test_wrong_types_within_are_found(name, content, workdir):
  (workdir / name).write_text(json.dumps(content) + "\n")
  bookkeeping.mend(workdir)
  assert (workdir / f"{name}.damaged-1").exists()
  assert starts.read(workdir) in ([], [START])


@pytest.mark.parametrize("text", ["", "[]", '{"w": 3}', '{"w": {"id": 3}}'])
def test_what_loggers_keep_is_set_aside_if_damaged(text, workdir):
  path = workdir / "loggers.json"
  path.write_text('{"w": {"id": "a"}}')
  bookkeeping.mend(workdir)
  assert path.exists()
  path.write_text(text)
  bookkeeping.mend(workdir)
  assert (workdir / "loggers.json.damaged-1").read_text() == text
  assert not path.exists()


def test_what_is_whole_of_the_metrics_stays(workdir):
  path = workdir / "metrics-0.jsonl"
  path.write_bytes(METRICS.encode() + b"\xff\x00\n[3]\n" + METRICS.encode())
  bookkeeping.mend(workdir)
  assert path.read_text() == METRICS * 2
  assert b"\xff" in (workdir / "metrics-0.jsonl.damaged-1").read_bytes()


def _become_folder(path):
  path.mkdir()
  (path / "file").touch()


HARMS = {
  "folder": _become_folder,
  "pipe": os.mkfifo,
  "link to nothing": lambda path: path.symlink_to("nowhere"),
  "link to itself": lambda path: path.symlink_to(path.name),
  "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_no_file_is_set_aside(harm, workdir):
  """Reading a pipe or /dev/zero would never end."""
  metrics = ("metrics-0.jsonl", "metrics-8.jsonl")
  names = ("starts.json", "results.json", *metrics, "summary.png")
  for name in names:
    (workdir / name).unlink(missing_ok=True)
    HARMS[harm](workdir / name)
  bookkeeping.mend(workdir)
  for name in names:
    assert not os.path.lexists(workdir / name)
    assert os.path.lexists(workdir / f"{name}.damaged-1")


def test_files_too_large_for_the_memory_are_set_aside(workdir):
  """A sparse file may have a terabyte without taking disk space."""
  description = workdir / "checkpoints" / "8" / "_CHECKPOINT_METADATA"
  names = ("starts.json", "results.json", "metrics-0.jsonl")
  paths = [*(workdir / name for name in names), description]
  for path in paths:
    path.touch()
    os.truncate(path, 10**12)
  bookkeeping.mend(workdir)
  for path in paths:
    assert not path.exists() or not path.stat().st_size
    damaged = path.with_name(f"{path.name}.damaged-1")
    assert damaged.stat().st_size == 10**12
  config = workdir / "config.json"
  os.truncate(config, 10**12)
  with pytest.raises(UsageError, match=f"{config} is damaged .*bytes, more"):
    bookkeeping.mend(workdir)


def test_files_in_the_place_of_folders_are_set_aside(workdir):
  (workdir / "tensorboard").rmdir()
  (workdir / "tensorboard").touch()
  (workdir / "checkpoints" / "16").touch()
  os.mkfifo(workdir / "checkpoints" / "24")
  bookkeeping.mend(workdir)
  assert (workdir / "tensorboard.damaged-1").is_file()
  kept = ["16.damaged-1", "24.damaged-1", "8"]
  assert _names(workdir / "checkpoints") == kept


@pytest.mark.parametrize(
  "content", ["", "[]", '{"model": 3}', '{"evaluations": [7]}', "\0"]
)
def test_a_damaged_config_guards_checkpoints(content, workdir):
  """The run is refused and nothing changes: the config describes them.

  Without checkpoints, a damaged config is set aside.
  """
  path = workdir / "config.json"
  path.write_text(content)
  with pytest.raises(UsageError, match="remove it if this command") as error:
    bookkeeping.mend(workdir)
  assert "\n" not in str(error.value)
  assert path.read_text() == content
  (workdir / "checkpoints" / "8").rmdir()
  bookkeeping.mend(workdir)
  assert not path.exists()
  assert (workdir / "config.json.damaged-1").read_text() == content


@pytest.mark.parametrize("what", ["emptied", "removed", "a file", "a pipe"])
def test_a_trained_workdir_is_not_begun_anew(what, workdir):
  """Its checkpoints are gone, but the record shows that there were some."""
  folder = workdir / "checkpoints"
  (folder / "8").rmdir()
  if what != "emptied":
    folder.rmdir()
  if what == "a file":
    folder.touch()
  if what == "a pipe":
    os.mkfifo(folder)
  assert not bookkeeping.has_checkpoint(workdir)
  before = _names(workdir)
  with pytest.raises(UsageError, match="holds a trained run") as error:
    bookkeeping.begin_anew(workdir)
  assert str(error.value).endswith("remove starts.json and results.json")
  assert _names(workdir) == before
  (workdir / "starts.json").write_text("")  # damaged, it still counts
  (workdir / "results.json").unlink()
  with pytest.raises(UsageError, match=r"to start over, remove starts\.json$"):
    bookkeeping.begin_anew(workdir)
  (workdir / "starts.json").unlink()
  bookkeeping.begin_anew(workdir)  # as the message said


def test_a_run_killed_in_its_first_save_begins_again(workdir, capsys):
  """The record of the save is renamed first, before any further kill."""
  (workdir / "results.json").unlink()
  folder = workdir / "checkpoints"
  (folder / "8").rename(folder / "8.orbax-checkpoint-tmp")
  bookkeeping.begin_anew(workdir)
  assert not (workdir / "starts.json").exists()
  assert json.loads((workdir / "starts.json.cut-1").read_text()) == [START]
  assert (workdir / "metrics-0.jsonl.cut-1").read_text() == METRICS
  assert len(capsys.readouterr().out.splitlines()) == 2
  (folder / "8.orbax-checkpoint-tmp").rmdir()
  bookkeeping.begin_anew(workdir)
  assert not capsys.readouterr().out


def test_figures_of_training_are_never_wiped(tmp_path, capsys):
  """Even if nothing else shows that the run trained."""
  path = tmp_path / "metrics-0.jsonl"
  path.write_text('{"step": 0, "knn_top1": 9.0}\n')
  bookkeeping.begin_anew(tmp_path)
  assert path.exists()  # an untrained encoder can be measured again
  path.write_text(METRICS)
  bookkeeping.begin_anew(tmp_path)
  assert not path.exists()
  assert (tmp_path / "metrics-0.jsonl.cut-1").read_text() == METRICS
  assert "is now metrics-0.jsonl.cut-1" in capsys.readouterr().out


def test_checkpoints_out_of_reach_are_not_begun_anew(tmp_path):
  """For example on a disk that is not mounted; the link stays."""
  (tmp_path / "checkpoints").symlink_to(tmp_path / "elsewhere")
  with pytest.raises(UsageError, match=r"is a link to .*elsewhere.*mount"):
    bookkeeping.begin_anew(tmp_path)
  assert _names(tmp_path) == ["checkpoints"]


def test_results_of_weights_from_a_file_are_no_training(workdir):
  (workdir / "checkpoints" / "8").rmdir()
  (workdir / "starts.json").unlink()
  (workdir / "results.json").write_text(json.dumps(RESULTS | {"step": 0}))
  bookkeeping.begin_anew(workdir)


def test_checkpoints_set_aside_are_evidence_of_training(tmp_path):
  """Whatever else a kill left; nothing is removed."""
  for name in ("200.damaged-1", "300.orbax-checkpoint-tmp"):
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
  (tmp_path / "starts.json").write_text("[]")
  with pytest.raises(UsageError, match="checkpoints/200.damaged-1"):
    bookkeeping.begin_anew(tmp_path)
  assert (tmp_path / "starts.json").exists()
