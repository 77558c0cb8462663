"""The table of memory and time against batch size."""

import json

import memory
import pytest


@pytest.fixture
def compiled(monkeypatch):
  """Steps that are not compiled: they take as long as they have settings."""
  asked = []

  class Step:
    def __init__(self, arguments):
      self._arguments = arguments
      self.temporary_bytes = 2**30 // arguments.micro_batches
      asked.append(arguments.batch)

    def run(self):
      return 3.0 if self._arguments.rematerialize else 2.0

  monkeypatch.setattr(memory, "Step", Step)
  monkeypatch.setattr(memory.cpu, "tune", lambda: None)
  monkeypatch.setattr(memory.cpu, "keep_memory", lambda: None)
  monkeypatch.setattr(
    memory.records.environment,
    "describe",
    lambda: {"jax": "1", "device_kind": "cpu", "git_commit": "abc"},
  )
  return asked


def test_sizes_that_are_measured_are_not_measured_again(
  compiled, tmp_path, capsys
):
  path = tmp_path / "new" / "memory.json"
  words = [f"--out={path}", "--timed=8", "--batches"]
  assert memory.main([*words, "8"]) == 0
  assert compiled == [8] * len(memory.SETTINGS)
  assert memory.main([*words, "8", "16"]) == 0
  assert compiled[len(memory.SETTINGS) :] == [16] * len(memory.SETTINGS)
  cells = json.loads(path.read_text())["cells"]
  assert {cell["step_seconds"] for cell in cells[:6]} == {2.0, 3.0}
  assert {cell["step_seconds"] for cell in cells[6:]} == {None}
  text = capsys.readouterr().out
  assert "| as it is | 1.00 GiB, 1.00 x | 1.00 GiB |" in text
  assert (
    "| rematerialize, micro_batches=4 | 0.25 GiB, 1.50 x | 0.25 GiB |" in text
  )


def test_other_circumstances_are_not_mixed(compiled, tmp_path, capsys):
  words = [f"--out={tmp_path / 'memory.json'}", "--batches=8"]
  assert memory.main(words) == 0
  before = (tmp_path / "memory.json").read_text()
  assert memory.main([*words, "--width=8"]) == 2
  error = capsys.readouterr().err
  assert "has width 64, but this start has 8: give another --out" in error
  assert (tmp_path / "memory.json").read_text() == before


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--batches=12"], "--batches must be multiples of 8; got 12"),
    (["--steps=0"], "--steps must be at least 1; got 0"),
    (["--method=moco"], "invalid choice: 'moco'"),
    (["--precision=float16"], "invalid choice: 'float16'"),
    ([f"--out={__file__}"], "is not a record of such measurements"),
    ([f"--out={__file__}/new.json"], "cannot be made a folder"),
  ],
)
def test_wrong_input_is_told_in_one_line(words, message, compiled, capsys):
  assert memory.main(words) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
