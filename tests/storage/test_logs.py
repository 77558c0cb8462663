"""Figures on disk, on the terminal and in other outputs."""

import json
import math
import os
import pathlib
import pty
import re
import subprocess
import sys
import textwrap
import threading

import event_files
import jax
import jax.numpy as jnp
from logger_helpers import logger_of
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

import essl_jax
from essl_jax.storage import environment, logs, metrics, workdir
from essl_jax.storage.logs import Logger

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[2]


def read_lines(workdir: pathlib.Path) -> list[dict]:
  """The lines that count, of all starts; NaN and Infinity are not JSON."""

  def refuse(text: str) -> None:
    raise AssertionError(f"{text} is not valid JSON")

  for path in metrics.files(workdir).values():
    for line in path.read_text().splitlines():
      if line.endswith("}"):
        json.loads(line, parse_constant=refuse)
  return metrics.read(workdir)


def test_writes_json_lines_and_tensorboard_events(tmp_path):
  with logger_of(tmp_path / "run", total_steps=2) as logger:
    logger.write(1, {"loss/total": 0.5, "lr": jnp.float32(0.25)})
    assert len(read_lines(tmp_path / "run")) == 1  # before it is closed
    logger.write(2, {"loss/total": np.float32(0.125)})
  lines = read_lines(tmp_path / "run")
  assert [line["step"] for line in lines] == [1, 2]
  assert lines[0] == {
    "step": 1,
    "wall_time": lines[0]["wall_time"],
    "loss/total": 0.5,
    "lr": 0.25,
  }
  assert lines[1]["wall_time"] > 1.7e9
  found = {
    (event.step, value.tag, value.simple_value)
    for event in event_files.read(tmp_path / "run")
    for value in event.summary.value
  }
  assert found == {
    (1, "loss/total", 0.5),
    (1, "lr", 0.25),
    (2, "loss/total", 0.125),
  }


def test_events_need_no_thread_and_fail_where_they_are_written(tmp_path):
  """A full disk would end a thread, and the program would wait for it."""
  threads = threading.active_count()
  with logger_of(tmp_path / "run", total_steps=1) as logger:
    logger.write(1, {"loss": 0.5})
    assert threading.active_count() == threads
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "tensorboard").touch()
  with (
    pytest.raises(OSError, match="tensorboard"),
    logger_of(tmp_path / "full", total_steps=1) as logger,
  ):
    logger.write(1, {"loss": 0.5})


def test_tensorboard_itself_reads_the_events(tmp_path):
  reading = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator"
  )
  with logger_of(tmp_path, total_steps=1) as logger:
    logger.write(1, {"loss": 0.5})
  events = reading.EventAccumulator(str(tmp_path / "tensorboard"))
  events.Reload()
  assert [(x.step, x.value) for x in events.Scalars("loss")] == [(1, 0.5)]


def test_not_a_number_is_null_in_json(tmp_path):
  with logger_of(tmp_path, total_steps=1) as logger:
    logger.write(1, {"a": math.nan, "b": math.inf, "c": jnp.array(-jnp.inf)})
  line = read_lines(tmp_path)[0]
  assert (line["a"], line["b"], line["c"]) == (None, None, None)
  values = [v for e in event_files.read(tmp_path) for v in e.summary.value]
  assert [v.simple_value for v in values[1:]] == [math.inf, -math.inf]


def test_figures_may_not_take_the_names_of_the_line(tmp_path):
  with (
    Logger(tmp_path, total_steps=1) as logger,
    pytest.raises(ValueError, match="step"),
  ):
    logger.write(1, {"step": 3.0})


def test_resuming_drops_what_the_killed_run_logged_later(tmp_path):
  with logger_of(tmp_path, total_steps=9) as logger:
    for step in range(6):
      logger.write(step, {"loss": step})
  path = tmp_path / "metrics-0.jsonl"
  path.write_text(path.read_text() + '{"step": 3, "los')
  before = path.read_text()
  with logger_of(tmp_path, total_steps=9, start_step=3) as logger:
    assert len(read_lines(tmp_path)) == 6  # until the first figure
    logger.write(4, {"loss": 40.0})
  assert path.read_text() == before
  assert [line["step"] for line in read_lines(tmp_path)] == [0, 1, 2, 3, 4]
  assert read_lines(tmp_path)[4]["loss"] == 40.0
  started = event_pb2.SessionLog.START
  restarts = [
    event.step
    for event in event_files.read(tmp_path)
    if event.session_log.status == started
  ]
  assert restarts == [0, 4]

  with logger_of(tmp_path, total_steps=9) as logger:
    logger.write(0, {"loss": 7.0})
  assert [line["loss"] for line in read_lines(tmp_path)] == [7.0]
  assert sorted(x.name for x in tmp_path.iterdir()) == [
    "metrics-0.jsonl",
    "tensorboard",
  ]


def test_other_processes_write_and_print_nothing(tmp_path, capsys):
  with Logger(tmp_path, total_steps=1, enabled=False, progress=True) as logger:
    logger.write(1, {"loss": 1.0})
    logger.progress(1, {"loss": 1.0})
    logger.info("text")
  assert list(tmp_path.iterdir()) == []
  assert capsys.readouterr() == ("", "")


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
  with Logger(tmp_path, total_steps=100, images_per_step=512) as logger:
    logger.info("a [bold]long[/bold] line " + "x" * 200)
    for step in range(1, 101):
      logger.progress(step, {"loss_total": 1 / step, "knn_top1": 61.23456})
      now[0] += 1.0
  output, errors = capsys.readouterr()
  lines = output.splitlines()
  assert errors == ""
  assert "\x1b" not in output
  assert lines[0] == "a [bold]long[/bold] line " + "x" * 200
  assert [x.split()[1] for x in lines[1:]] == [
    "1/100",
    "31/100",
    "61/100",
    "91/100",
    "100/100",
  ]
  assert lines[1] == "step 1/100  loss_total 1  knn_top1 61.23"
  assert lines[2] == (
    "step 31/100  512 images/s  0:01:09 left  loss_total 0.03226  "
    "knn_top1 61.23"
  )
  assert "0:00:00 left" in lines[-1]


def run_in_terminal(code: str, *arguments: object) -> str:
  """Runs Python in a pseudo-terminal of 100 columns; returns its output."""
  parent, child = pty.openpty()
  variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
  process = subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
    env=variables | {"TERM": "xterm", "NO_COLOR": "1"},
    stdin=child,
    stdout=child,
    stderr=child,
  )
  os.close(child)
  shown = b""
  try:
    while block := os.read(parent, 65536):
      shown += block
  except OSError:  # Linux reports EIO when the other side is closed
    pass
  os.close(parent)
  assert process.wait(timeout=60) == 0, shown.decode()
  return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_bar_on_a_terminal_and_no_tensorflow(tmp_path):
  shown = run_in_terminal(
    """
      import sys, time
      from essl_jax.storage.logs import Logger
      with Logger(sys.argv[1], total_steps=20, images_per_step=64) as logger:
        for step in range(1, 21):
          logger.write(step, {"loss_total": 1.5})
          logger.progress(step, {"loss_total": 1.5})
          if step == 10:
            logger.info("half of it")
          time.sleep(0.02)
      assert "tensorflow" not in sys.modules
      assert "clu" not in sys.modules
    """,
    tmp_path,
  )
  lines = [line.strip() for line in re.split(r"[\r\n]+", shown)]
  assert "half of it" in lines
  last = [line for line in lines if line][-1]
  assert re.fullmatch(
    r"train \S*━+\S* 20/20 [\d,]+ images/s 0:00:00 left loss_total 1.5", last
  )
  assert len(read_lines(tmp_path)) == 20


def test_not_finite_losses_are_named():
  logs.check_finite(3, {"loss_total": 1.0, "norm": jnp.float32(2.0)})
  with pytest.raises(FloatingPointError) as error:
    logs.check_finite(
      17, {"loss_total": math.nan, "lr": 0.1, "norm": jnp.float32(jnp.inf)}
    )
  assert "at step 17: loss_total is nan, norm is inf" in str(error.value)
  assert "lr" not in str(error.value).split(":")[1]


def test_summary_table_cuts_nothing(capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  path = "/a/very/long/path/" + "0123456789" * 12
  logs.summary_table(
    "Results of [run]", [("kNN top-1", "71.3 % [k=200]"), ("workdir", path)]
  )
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].strip() == "Results of [run]"
  assert any("kNN top-1" in x and "71.3 % [k=200]" in x for x in lines)
  # Not a terminal: lines are not wrapped, so logs can be searched.
  assert any("workdir" in x and path in x for x in lines)


def test_write_json_is_whole_or_nothing(tmp_path):
  path = tmp_path / "results.json"
  data = {
    "top1": np.float32(0.5),
    "loss": jnp.float32(jnp.nan),
    "list": (1, np.arange(2)),
    "path": tmp_path,
    "none": None,
  }
  workdir.write_json(path, data)
  text = path.read_text()
  assert json.loads(text) == {
    "top1": 0.5,
    "loss": None,
    "list": [1, [0, 1]],
    "path": str(tmp_path),
    "none": None,
  }
  assert text.startswith('{\n  "top1": 0.5,\n') and text.endswith("}\n")
  with pytest.raises(TypeError, match="object"):
    workdir.write_json(path, {"x": object()})
  assert path.read_text() == text
  assert [x.name for x in tmp_path.iterdir()] == ["results.json"]


def test_environment_names_versions_devices_and_commit(tmp_path):
  found = environment.describe()
  assert found["jax"] == jax.__version__
  assert found["numpy"] == np.__version__
  assert found["essl_jax"] == essl_jax.__version__
  assert found["device_count"] == 8
  assert found["process_count"] == 1
  assert found["device_kind"] == "cpu"
  assert {"jaxlib", "flax", "optax", "orbax-checkpoint", "python"} <= set(found)
  json.dumps(found)


def test_commit_of_a_checkout(tmp_path):
  def git(*arguments: str) -> None:
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(tmp_path), *names, *arguments]
    subprocess.run(command, check=True, capture_output=True)

  assert environment.git_commit(tmp_path) is None
  git("init")
  (tmp_path / "file").write_text("a")
  (tmp_path / "below").mkdir()
  git("add", ".")
  git("commit", "-m", "first")
  commit = environment.git_commit(tmp_path)
  assert commit is not None and re.fullmatch("[0-9a-f]{40}", commit)
  assert environment.git_commit(tmp_path / "below") is None
  (tmp_path / "file").write_text("b")
  assert environment.git_commit(tmp_path) == f"{commit}-dirty"
