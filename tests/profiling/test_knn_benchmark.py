"""The time of the kNN monitor's classification."""

import json

import knn_benchmark
import pytest


def _words(**values):
  sizes = {"bank": 60, "queries": 7, "features": 5, "k": 3, "rounds": 2}
  return [f"--{name}={value}" for name, value in (sizes | values).items()]


def _write(path, device, *rates):
  """What benchmark.py prints beside a peer."""
  runs = [{"program": "torch", "device": device}]
  for rate in rates:
    ours = {"program": "essl_jax", "source_images_per_second": rate}
    runs.append(ours | {"device": device})
  path.write_text(json.dumps({"runs": runs}))
  return path


def test_the_time_is_told_as_a_share_of_an_epoch(tmp_path, capsys):
  path = _write(tmp_path / "step.json", "cpu", 20.0, 40.0, 30.0)
  assert knn_benchmark.main([*_words(), f"--step={path}"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert (found["bank"], found["queries"], found["k"]) == (60, 7, 3)
  assert len(found["each_seconds"]) == 2
  assert found["epoch_seconds"] == 60 / 30
  share = found["median_seconds"] / found["epoch_seconds"]
  assert found["share_of_epoch"] == pytest.approx(share) and share > 0


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"bank": 0}, "--bank must be at least 1; got 0"),
    ({"k": 61}, "--k=61 must be at most --bank=60"),
    ({"step": "missing.json"}, "missing.json cannot be read"),
    ({"width": 3}, "unrecognized arguments: --width=3"),
  ],
)
def test_wrong_input_is_told_in_one_line(values, message, capsys):
  assert knn_benchmark.main(_words(**values)) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1


def test_records_of_other_things_are_refused(tmp_path, capsys):
  other = _write(tmp_path / "other.json", "NVIDIA H200", 20000.0)
  assert knn_benchmark.main([*_words(), f"--step={other}"]) == 2
  assert "is of 'NVIDIA H200', but this is 'cpu'" in capsys.readouterr().err
  for text in ("[]", "{}", "no", '{"runs": []}'):
    other.write_text(text)
    assert knn_benchmark.main([*_words(), f"--step={other}"]) == 2
    assert "is not a record of benchmark.py" in capsys.readouterr().err
