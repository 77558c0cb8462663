"""What a step costs as things grow."""

import json

import benchmark
import growth
import growth_figure
import programs
import pytest


def test_costs_grow_with_the_power_by_hand():
  assert growth_figure.exponent([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
  assert growth_figure.exponent([1, 2, 4], [5, 5, 5]) == pytest.approx(0)
  assert growth_figure.exponent([2, 8], [4, 64]) == pytest.approx(2)
  assert (
    growth_figure.exponent([4], [1])
    is growth_figure.exponent([4, 4], [1, 2])
    is None
  )


def test_cells_get_the_devices_that_they_want(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--kept")
  found = growth.variables("cpu", "devices", 4)
  flags = "--kept --xla_force_host_platform_device_count=4"
  assert (found["XLA_FLAGS"], found["NPROC"]) == (flags, "32")
  for platform, axis in (("gpu", "devices"), ("cpu", "batch")):
    assert growth.variables(platform, axis, 4)["XLA_FLAGS"] == "--kept"


def test_every_cell_is_a_command_of_the_benchmark(tmp_path):
  for scale in growth.SCALES:
    options = growth.parse([f"--scale={scale}", "--flag=--precision=bfloat16"])
    for axis, values in options.values.items():
      for value in values:
        script, *words = growth.command(options, axis, value)
        arguments, _ = benchmark.parse(words)
        assert script == "experiments/profiling/benchmark.py"
        assert getattr(arguments, axis) == value and arguments.augment
        assert arguments.precision == "bfloat16"
        if axis == "examples":
          assert arguments.steps * arguments.batch == value


@pytest.fixture
def asked(monkeypatch):
  """Commands of cells on a machine of two devices, none of them run."""
  commands = []

  def last_line(command, environment=None):
    if "-c" in command:
      known = {"kind": "toy", "platform": "gpu", "git_commit": "abc"}
      return known | {"count": 2}
    commands.append(command)
    (batch,) = (x for x in command if x.startswith("--batch="))
    number = int(batch.partition("=")[2])
    step = {"median_step_seconds": number / 10, "mean_step_seconds": number / 5}
    return step | {"temporary_bytes": number * 2**20}

  monkeypatch.setattr(programs, "last_line", last_line)
  return commands


def test_growth_is_measured_once_and_drawn(asked, tmp_path, capsys):
  words = [f"--out={tmp_path}", "--devices", "1", "2", "4"]
  assert growth.main(words) == 0
  output = capsys.readouterr()
  assert "left out 4 devices: there are 2" in output.err
  assert "global batch 16: 1.6 s a step, 16.0 MiB" in output.out
  record = json.loads((tmp_path / "growth.json").read_text())
  assert len(record["cells"]) == len(asked) == 2 + 2 + 2 + 2
  epochs = [x["epoch_seconds"] for x in record["cells"] if "epoch_seconds" in x]
  assert epochs == [2 * 8 / 5, 4 * 8 / 5]
  assert (tmp_path / "figure.png").stat().st_size > 1000
  assert (tmp_path / "figure.pdf").read_bytes()[:4] == b"%PDF"
  assert growth.main(words) == 0 and len(asked) == 8
  assert growth.main([*words, "--flag=--width=16"]) == 2
  assert "has flags [], but this start has" in capsys.readouterr().err


def test_cells_of_other_circumstances_are_not_mixed(
  asked, tmp_path, monkeypatch, capsys
):
  words = [f"--out={tmp_path}", "--axes", "batch", "--batch", "8"]
  assert growth.main(words) == 0
  machine = {"cpu": "fast", "cores": 9, "load_average": 0.0}
  monkeypatch.setattr(programs, "host", lambda: machine)
  assert growth.main(words) == 2
  error = capsys.readouterr().err
  assert "this start has fast: give another --out" in error
  path = tmp_path / "growth.json"
  record = json.loads(path.read_text()) | machine
  path.write_text(json.dumps(record | {"git_commit": "abd"}))
  assert growth.main(words) == 2
  error = capsys.readouterr().err
  assert "has git_commit abd, but this start has abc" in error
  for text in (json.dumps(record)[:-20], "[1]", '{"cells": [1]}'):
    path.write_text(text)
    assert growth.main(words) == 2
    error = capsys.readouterr().err
    assert "is not a record of such measurements: remove it" in error
    assert len(error.splitlines()) == 1
  assert len(asked) == 1


def test_a_value_given_twice_is_measured_once(asked, tmp_path):
  words = [f"--out={tmp_path}", "--axes", "batch", "--batch", "32", "8", "32"]
  assert growth.main(words) == 0
  assert len(asked) == 2


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--batch", "0"], "--batch must be at least 1"),
    (["--axes", "depth"], "invalid choice"),
    (["--flag=--batch=128"], "--flag sets --batch"),
    (["--flag=--bat=128"], "--flag sets --batch"),
    (["--flag=--steps=9"], "--flag sets --steps"),
    (["--flag=--devices=2"], "--flag sets --devices"),
    (["--flag=--peer=x.py"], "peers are compared by benchmark.py"),
    (["--flag=--depth=3"], "unrecognized arguments: --depth=3"),
    (["--devices", "3"], "--devices 3: a batch of 8 cannot be divided evenly"),
    (["--examples", "4"], "--examples 4: --examples=4 must be at least"),
    (["--batch", "1"], "--batch 1: config.batch_size must be at least 2"),
    ([f"--out={__file__}/new"], "cannot be made a folder"),
  ],
)
def test_wrong_arguments_of_growth_end_with_one_line(words, message, capsys):
  assert growth.main(words) == 2
  error = capsys.readouterr().err
  assert message in error and len(error.splitlines()) == 1
