"""Running a study: what is run and what is not, kills, failures, processes."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cifar10_table
import photonics_table
import program_helpers
import pytest
import study
from study_helpers import Runner, make_options, results, run_study
import study_runner

from essl_jax.errors import UsageError

METHODS = ("SimCLR", "SimSiam", "Barlow Twins")
CIFAR10 = dataclasses.replace(
  cifar10_table.STUDY,
  cells=lambda scale, seeds: [
    cell
    for cell in cifar10_table.STUDY.cells(scale, seeds)
    if cell.row.removeprefix("E-") in METHODS
  ],
)


def _run(tmp_path, *words):
  return run_study(tmp_path, CIFAR10, *words)


@pytest.fixture
def runner(monkeypatch):
  return Runner(monkeypatch)


def test_a_kill_loses_no_cell_and_repeats_none(tmp_path, runner, capsys):
  runner.stop_at = 3
  assert _run(tmp_path, "--seeds", "0", "1") == 130
  assert "stopped: the same command resumes" in capsys.readouterr().err
  folder = tmp_path / "results/cifar10/small"
  # The third cell had ended, and nothing had been noted of it.
  (folder / f"{runner.ran[2]}.json").unlink()
  first = {x.name: x.read_bytes() for x in folder.glob("*.json")}
  assert len(first) == 2
  runner.stop_at = None
  assert _run(tmp_path, "--seeds", "0", "1", "--jobs=2", "--note=late") == 0
  assert len(runner.ran) == len(set(runner.ran)) == 12
  assert runner.slots == {0, 1}
  records = {x.name: x.read_bytes() for x in folder.glob("*.json")}
  assert len(records) == 12
  assert first.items() <= records.items()
  record = json.loads(records[f"{runner.ran[2]}.json"])
  assert record["note"] == "late" and record["figures"]["knn_top1"] == 30.0
  # A fresh clone has the committed files alone.
  shutil.rmtree(tmp_path / "w")
  capsys.readouterr()
  assert _run(tmp_path, "--seeds", "0", "1") == 0
  assert len(runner.ran) == 12
  assert "missing" not in capsys.readouterr().out
  for name in ("table.md", "figure.png", "figure.pdf"):
    assert (folder / name).stat().st_size > 100


def test_further_seeds_stay_in_the_table(tmp_path, runner, capsys):
  assert _run(tmp_path, "--seeds", "0", "1") == 0
  capsys.readouterr()
  assert _run(tmp_path, "--seeds", "2", "--collect-only") == 0
  out = capsys.readouterr().out
  assert "missing 6 of 6 cells: cifar_simclr-seed2, " in out
  # Cells 1 and 7 of 12, so 10 and 70: mean 40, deviation 60 / sqrt(2).
  assert "| E-SimCLR | 2 | 40.00 ± 42.43 | – | 50.00 ± 0.00 | – |" in out
  assert len(runner.ran) == 12


def test_rows_are_run_alone_and_all_are_shown(tmp_path, runner, capsys):
  assert _run(tmp_path, "--seeds=0") == 0
  words = ["--seeds", "0", "1", "--rows", "SimSiam", "E-SimCLR"]
  assert _run(tmp_path, *words) == 0
  assert runner.ran[6:] == [
    "cifar_simclr-seed1",
    "cifar_simsiam-baseline-seed1",
  ]
  out = capsys.readouterr().out
  assert "missing" not in out
  assert "| E-SimCLR | 2 | " in out and "| SimCLR | 1 | " in out
  assert _run(tmp_path, "--rows", "E-SimCLR", "BYOL") == 2
  error = capsys.readouterr().err
  assert error.startswith("error: --rows: no row 'BYOL'; there are 'E-SimCLR'")


def test_dry_run_writes_nothing(tmp_path, runner, capsys):
  assert _run(tmp_path, "--seeds=0", "--dry-run", "--data-dir=/tfds") == 0
  assert list(tmp_path.iterdir()) == runner.ran == []
  out = capsys.readouterr().out.splitlines()
  assert len(out) == 7 and out[-1] == "6 of 6 cells are missing"
  assert out[1].startswith("missing   cifar_simclr-baseline-seed0  ")
  assert "cifar_simclr.py:small,baseline --config.seed=0" in out[1]
  assert " --config.data.dir=/tfds --workdir=" in out[1]


def test_results_of_another_run_are_refused(tmp_path, runner, capsys):
  assert _run(tmp_path, "--seeds=0") == 0
  capsys.readouterr()
  assert _run(tmp_path, "--seeds=0", "--flag=--config.epochs=5") == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "cifar_simclr-seed0.json is of another run: flags is [] there" in line
  assert "['--config.epochs=5'] here: move it away or give other" in line
  # So is a workdir, finished or begun.
  shutil.rmtree(tmp_path / "results")
  assert _run(tmp_path, "--seeds=0", "--flag=--config.epochs=5") == 2
  assert "give other --workdirs" in capsys.readouterr().err
  path = tmp_path / "w/cifar_simclr-seed0/results.json"
  path.write_text(json.dumps(results(10.0, 7)))
  assert _run(tmp_path, "--seeds=0") == 2
  assert "seed is 7 there, 0 here" in capsys.readouterr().err
  path.write_text("{")
  assert _run(tmp_path, "--seeds=0") == 2
  assert "restore or remove it" in capsys.readouterr().err
  assert len(runner.ran) == 6


def test_a_failing_cell_is_told_in_one_line(tmp_path, runner, capsys):
  runner.fail = {"cifar_simclr-baseline-seed0"}
  assert _run(tmp_path, "--seeds=0") == 1
  assert len(runner.ran) == 2
  (line,) = capsys.readouterr().err.splitlines()
  log = tmp_path / "w/cifar_simclr-baseline-seed0.log"
  assert line.startswith(
    "error: cell cifar_simclr-baseline-seed0 failed with exit code 2: error:"
    f" no data; log: {log}; command: {sys.executable} -m essl_jax.main"
  )
  shutil.rmtree(tmp_path / "w/cifar_simclr-baseline-seed0")
  runner.fail = {"cifar_simsiam-seed0"}
  assert _run(tmp_path, "--seeds=0", "--keep-going") == 1
  assert len(runner.ran) == 7
  captured = capsys.readouterr()
  assert "missing 1 of 6 cells: cifar_simsiam-seed0" in captured.out
  assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    (
      ["--seeds", "1", "1"],
      "--seeds must be different numbers from 0; got 1 1",
    ),
    (["--seeds", "-1"], "--seeds must be different numbers from 0; got -1"),
    (["--seeds", str(2**32)], "got 4294967296 .the largest is 2..32 - 1"),
    (["--jobs", "1000000000"], "--jobs must be at most 1000; got 1000000000"),
    (["--jobs", "many"], "argument --jobs: invalid int value: 'many'; --help"),
    (["--jobs=0"], "--jobs must be at least 1; got 0"),
    (["--scale=huge"], "invalid choice: 'huge'"),
  ],
)
def test_wrong_options(tmp_path, words, expected):
  with pytest.raises(UsageError, match=expected):
    make_options(tmp_path, CIFAR10, *words)


def test_cells_that_make_data_wait_for_the_first():
  cells = photonics_table.STUDY.cells("small", [0])
  first = study_runner.next_cell(cells, [], set())
  rest = cells[1:]
  second = study_runner.next_cell(rest, [first], set())
  assert (first.makes, second.makes) == ("blob", "gpm")
  assert study_runner.next_cell(rest[:3], [first], set()) is None
  assert study_runner.next_cell(rest[:3], [first], {"blob"}) == rest[0]


PROGRAM = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(0)))
print(sorted(os.sched_getaffinity(0)), flush=True)
if sys.argv[1] == "wait":
  pathlib.Path(sys.argv[2]).touch()
  time.sleep(60)
"""


def _program(monkeypatch, *words):
  made = lambda cell, options: [sys.executable, "-c", PROGRAM, *words]
  monkeypatch.setattr(study, "command", made)


def _wait_for(path):
  deadline = time.monotonic() + 120
  while not path.exists():
    assert time.monotonic() < deadline
    time.sleep(0.02)


@pytest.mark.skipif(
  not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here"
)
def test_jobs_share_the_cores(tmp_path, monkeypatch):
  _program(monkeypatch, "end")
  cores = sorted(os.sched_getaffinity(0))
  options = make_options(tmp_path, CIFAR10, "--jobs=2")
  for slot, cell in enumerate(CIFAR10.cells("small", [0])[:2]):
    assert study_runner.start(cell, options, slot).wait() == 0
    expected = cores[slot % len(cores) :: 2]
    assert study.log_path(cell, options).read_text() == f"{expected}\n"
  assert sorted(os.sched_getaffinity(0)) == cores


def test_two_do_not_run_one_cell(tmp_path, monkeypatch):
  _program(monkeypatch, "wait", str(tmp_path / "begun"))
  options = make_options(tmp_path, CIFAR10)
  cell = CIFAR10.cells("small", [0])[0]
  process = study_runner.start(cell, options, 0)
  try:
    _wait_for(tmp_path / "begun")
    # This holds although whoever started it may be gone.
    with pytest.raises(UsageError, match="another process runs cell cifar_sim"):
      study_runner.start(cell, options, 0)
  finally:
    process.terminate()
    assert process.wait() == 0
  study_runner.start(cell, options, 0).kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_study_stops_its_cells(tmp_path, number):
  """The study ends when its cell has saved what it has."""
  script = f"""
import signal, sys, cifar10_table, study, study_runner
# Shells start what runs in the background with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
study.command = lambda *_: {
    [sys.executable, "-c", PROGRAM, "wait", str(tmp_path / "begun")]
  }
sys.exit(study_runner.main(cifar10_table.STUDY, "", sys.argv[1:]))
"""
  folders = [f"--results={tmp_path}/r", f"--workdirs={tmp_path}/w"]
  path = os.pathsep.join([str(study.ROOT / "experiments"), str(study.ROOT)])
  started = subprocess.Popen(
    [sys.executable, "-c", script, *folders],
    env=os.environ | {"PYTHONPATH": path},
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    _wait_for(tmp_path / "begun")
  finally:
    started.send_signal(number)
  assert "stopped: the same command" in started.communicate(timeout=120)[1]
  assert started.returncode == 130
  log = (tmp_path / "w/cifar_simclr-seed0.log").read_text()
  assert log.endswith("saved\n")


@pytest.mark.slow
def test_smoke_cells_from_end_to_end(tmp_path, monkeypatch, capsys):
  for name, value in program_helpers.environment().items():
    monkeypatch.setenv(name, value)
  two = lambda scale, seeds: CIFAR10.cells(scale, seeds)[2:4]
  chosen = dataclasses.replace(CIFAR10, cells=two)
  assert run_study(tmp_path, chosen, "--scale=smoke") == 0
  assert "| SimSiam | 1 | " in capsys.readouterr().out
  folder = tmp_path / "results/cifar10/smoke"
  record = json.loads((folder / "cifar_simsiam-seed0.json").read_text())
  assert 0 <= record["figures"]["knn_top1"] <= 100
  assert record["protocol"]["knn"]["bank_size"] == 64
  assert record["environment"]["jax"]
  before = (folder / "table.md").read_text()
  shutil.rmtree(tmp_path / "w")
  assert run_study(tmp_path, chosen, "--scale=smoke") == 0
  assert (folder / "table.md").read_text() == before
