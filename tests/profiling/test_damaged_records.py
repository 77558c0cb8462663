"""Damaged records of experiments: one line, and no waiting."""

import copy
import json
import os

import aot_report
import cifar10_table
import growth
import input_benchmark
import knn_benchmark
import peer
import photonics_speed
import pytest
import records
from study_helpers import Runner, run_study
import time_to_accuracy

from essl_jax.errors import UsageError

STUDY = cifar10_table.STUDY
STRANGE = (3, "text", [1, {}], {"a": 1}, 1e308, float("nan"), 10**400)
STRANGE += ("\ud800", "a\nb")
DAMAGED = (b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, "pipe", "folder")


def places(tree, above=()):
  for key, value in tree.items():
    yield (*above, key)
    if isinstance(value, dict):
      yield from places(value, (*above, key))


def put(path, content):
  """A file of these bytes, or a pipe or a folder in its place."""
  if path.is_dir():
    path.rmdir()
  path.unlink(missing_ok=True)
  if content == "pipe":
    os.mkfifo(path)
  elif content == "folder":
    path.mkdir()
  else:
    path.write_bytes(content)


@pytest.fixture
def collect(tmp_path, monkeypatch, capsys):
  """Collects one finished cell; its files, and a start's code and line."""
  runner = Runner(monkeypatch)
  monkeypatch.setattr("study_report.drawing.write_files", lambda *_: None)
  words = ["--seeds=0", "--rows", "SimSiam"]
  assert run_study(tmp_path, STUDY, *words) == 0
  (name,) = runner.ran
  record = tmp_path / f"results/cifar10/small/{name}.json"
  source = tmp_path / f"w/{name}/results.json"

  def start():
    capsys.readouterr()
    code = run_study(tmp_path, STUDY, "--collect-only", *words)
    return code, capsys.readouterr().err

  return record, source, start


@pytest.mark.parametrize("kind", ["record", "source"])
def test_damaged_records_of_a_study_are_one_line(kind, collect):
  record, source, start = collect
  path = record if kind == "record" else source
  for content in DAMAGED:
    if kind == "source":
      record.unlink(missing_ok=True)
    put(path, content)
    code, error = start()
    assert (code, len(error.splitlines())) == (2, 1), (content, error)
    assert str(path) in error and "restore or remove it" in error


@pytest.mark.parametrize("kind", ["record", "source"])
def test_values_of_other_types_are_one_line_at_most(kind, collect):
  record, source, start = collect
  path = record if kind == "record" else source
  whole = json.loads(path.read_text())
  for place in list(places(whole)):
    for value in STRANGE:
      changed = copy.deepcopy(whole)
      holder = changed
      for key in place[:-1]:
        holder = holder[key]
      holder[place[-1]] = value
      if kind == "source":
        record.unlink(missing_ok=True)
      path.write_text(json.dumps(changed))
      code, error = start()
      assert code in (0, 2)
      assert len(error.splitlines()) == (1 if code else 0), (place, value)


def test_a_folder_of_nobody_is_one_line(tmp_path, capsys):
  words = [f"--results={tmp_path}", "--collect-only", "--workdirs=~nobody-/x"]
  from study_runner import main

  assert main(STUDY, "", words) == 2
  assert "write out the path" in capsys.readouterr().err


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_records_of_measurements_are_one_line(content, tmp_path):
  path = tmp_path / "record.json"
  put(path, content)
  for read in (
    knn_benchmark.load_step,
    peer.load,
    aot_report.read,
    lambda path: records.resume(path, {}, ("axis",)),
  ):
    with pytest.raises(UsageError) as error:
      read(path)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), "text", [1], 10**400])
def test_a_speed_that_is_none_is_refused(rate, tmp_path):
  path = tmp_path / "step.json"
  run = {"program": "essl_jax", "device": "cpu"}
  path.write_text(json.dumps(run | {"source_images_per_second": rate}))
  with pytest.raises(UsageError, match="is not a record of benchmark.py"):
    knn_benchmark.load_step(path)


@pytest.mark.parametrize("content", ["pipe", "folder", b"\xff\n", b"[1]\n"])
def test_metrics_that_are_none_are_one_line(content, tmp_path, capsys):
  put(tmp_path / "metrics-0.jsonl", content)
  assert time_to_accuracy.main([str(tmp_path)]) == 2
  assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
  "change", [{"step_seconds": "x"}, {"temporary_bytes": "x"}]
)
def test_cells_that_cannot_be_drawn_are_one_line(
  change, tmp_path, monkeypatch, capsys
):
  cell = {"axis": "batch", "value": 8, "step_seconds": 1.0}
  record = {"cells": [cell | {"temporary_bytes": 1} | change]}
  monkeypatch.setattr(records, "resume", lambda *_: record)
  machine = {"platform": "cpu", "count": 1, "kind": "cpu", "git_commit": "a"}
  monkeypatch.setattr(growth.programs, "last_line", lambda *_: machine)
  words = [f"--out={tmp_path}", "--axes", "batch", "--batch", "8"]
  assert growth.main(words) in (0, 2)
  assert len(capsys.readouterr().err.splitlines()) <= 1


WRONG = (
  (photonics_speed, ["--mpb=/nonexistent"], "cannot be run: give a Python"),
  (photonics_speed, ["--output=/dev/null/a"], "there is no folder /dev/null"),
  (photonics_speed, ["--output=/tmp"], "is a folder: give a file"),
  (photonics_speed, ["--cells=1000000000"], "must be at most 1000000"),
  (input_benchmark, ["--torch_python=/nonexistent"], "cannot be run: give"),
  (input_benchmark, ["--files=1000000000"], "must be at most 1000000"),
)


@pytest.mark.parametrize(("program", "words", "message"), WRONG)
def test_wrong_options_are_told_before_work(
  program, words, message, monkeypatch, capsys
):
  monkeypatch.setattr("sys.argv", ["program", *words])
  assert program.main() == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert message in line


def test_a_python_that_is_none_is_one_line(tmp_path):
  """It is asked for a line of JSON."""
  with pytest.raises(UsageError, match="prints .* instead of a JSON line"):
    input_benchmark.TorchSide("/bin/echo", tmp_path, 1)
