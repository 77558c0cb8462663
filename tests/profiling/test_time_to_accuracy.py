"""When a run reached an accuracy."""

import json

import pytest
import time_to_accuracy

_LINES = (
  {"step": 0, "wall_time": 100.0, "knn_top1": 30.0},
  {"step": 1, "wall_time": 110.0, "loss": 2.0},
  {"step": 8, "wall_time": 130.0, "knn_top1": 88.0},
  {"step": 16, "wall_time": 150.0, "knn_top1": 91.0},
  {"step": 24, "wall_time": 170.0, "knn_top1": 89.0},
)


def _write(folder, lines):
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "metrics-0.jsonl").write_text(text)


@pytest.mark.parametrize(
  ("accuracy", "seconds", "step"), [("90", 50.0, 16), ("88", 30.0, 8)]
)
def test_the_first_look_that_is_high_enough(
  tmp_path, capsys, accuracy, seconds, step
):
  _write(tmp_path, _LINES)
  with (tmp_path / "metrics-0.jsonl").open("a") as file:
    file.write('{"step": 25, "wall')  # as a running run leaves it
  assert time_to_accuracy.main([str(tmp_path), f"--knn={accuracy}"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert (found["seconds"], found["step"]) == (seconds, step)


@pytest.mark.parametrize(
  ("lines", "words", "message"),
  [
    (_LINES, ["--knn=95"], "has not reached a kNN accuracy of 95%: its best"),
    (_LINES, ["--knn=950"], "--knn must be 0 to 100; got 950"),
    (_LINES[1:2], [], "holds no kNN accuracy: train with --config.knn"),
    ([], [], "holds no kNN accuracy"),
    ([3], [], "holds no metrics of a run"),
    (None, [], "cannot be read (No such file or directory): give the workdir"),
  ],
)
def test_wrong_input_is_told_in_one_line(
  tmp_path, capsys, lines, words, message
):
  if lines is not None:
    _write(tmp_path, lines)
  assert time_to_accuracy.main([str(tmp_path), *words]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
