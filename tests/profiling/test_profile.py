"""Where the time of a step goes: bounds, and a step profiled as a whole."""

import json
import pathlib
import sys

import device_peaks
import hlo_parts
import jax
import profile_report
import profile_step
import pytest

from essl_jax.devices import parallel


def test_a_bound_is_the_longer_of_both_times():
  peaks = {"flops_per_second": 100.0, "bytes_per_second": 10.0}
  found = profile_report.roofline(400.0, 399, 20.0, peaks, 8.0)
  assert (found["limit"], found["bound_seconds"]) == ("arithmetic", 4.0)
  assert (found["achieved"], found["flops_source"]) == (0.5, "XLA")
  # XLA counts the body of a loop once, and no calls of libraries.
  found = profile_report.roofline(0.0, 100, 20.0, peaks, 8.0)
  assert (found["limit"], found["bound_seconds"]) == ("memory", 2.0)
  assert (found["flops"], found["flops_source"]) == (100, "traced matrices")


def test_peaks_count_every_operation_and_byte(monkeypatch):
  assert device_peaks.flops_per_second("float32", largest=64) > 1e7
  assert device_peaks.bytes_per_second(2**20) > 1e7
  seconds = iter([0.01, 0.02, 0.5, 0.1])  # of 512, 1024 and 2048, then bytes
  monkeypatch.setattr(device_peaks, "fastest", lambda *_: next(seconds))
  assert device_peaks.flops_per_second("float32") == 2 * 1024**3 / 0.02
  assert device_peaks.bytes_per_second(2**20) == 2 * 2**20 / 0.1


@pytest.fixture
def known_peaks(monkeypatch):
  """A device of 1 TFLOP/s and 10 GB/s."""
  peaks = {"flops_per_second": 1e12, "bytes_per_second": 1e10}
  for name, value in peaks.items():
    monkeypatch.setattr(device_peaks, name, lambda *_, value=value: value)


def test_a_step_is_profiled_as_a_whole(
  short_resnet, known_peaks, tmp_path, capsys
):
  path, traces = tmp_path / "record.json", tmp_path / "traces"
  code = profile_step.main(
    [
      *("--width=4", "--batch=8", "--size=8", "--devices=1", "--augment"),
      *("--steps=2", f"--json={path}", f"--trace-dir={traces}"),
    ]
  )
  assert code == 0
  record = json.loads(path.read_text())
  parts = {x["part"] for x in record["parts"]}
  assert {
    *("augmentation", hlo_parts.STEM, "encoder: layer1", "encoder: layer2"),
    *("projector", "predictor", "transformation head", "losses", "optimizer"),
  } <= parts
  assert not parts & {"encoder: layer3", profile_report.UNKNOWN}
  percents = [x["percent"] for x in record["parts"]]
  assert 0 <= record["gap_percent"] <= 100
  assert sum(percents) + record["gap_percent"] == pytest.approx(100)
  share = {"other": 0.0} | {x["part"]: 0.0 for x in record["parts"]}
  for row in record["parts"]:
    share[row["part"]] += row["percent"]
  assert share["other"] < 10
  roofline = record["roofline"]
  counted = sum(x["flops"] for x in record["parts"])
  assert counted == pytest.approx(roofline["matrix_flops"], rel=0.01)
  assert roofline["bound_seconds"] > 0 and record["input_seconds"] > 0
  assert record["environment"]["jax"] == jax.__version__
  assert list(traces.glob("**/*.xplane.pb"))
  lines = capsys.readouterr().out.splitlines()
  assert any(line.startswith("| encoder: layer1 | ") for line in lines)
  assert any(line.startswith("| **step** | ") for line in lines)


def test_simulated_devices_share_the_peaks_of_their_machine(known_peaks):
  for count in (1, 4):
    mesh = parallel.make_mesh(jax.devices()[:count])
    found = profile_step.peaks_of_device("float32", mesh)
    assert found["flops_per_second"] == 1e12 / count
    assert found["bytes_per_second"] == 1e10 / count


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--steps=0"], "--steps must be at least 1"),
    (["--steps-per-dispatch=2"], "dispatched one by one"),
    (["--devices=99"], "there are 8 devices"),
    (["--batch=x"], "invalid int value"),
    (["--json=."], "--json=. is a folder"),
    ([f"--json={__file__}/record.json"], "cannot be made a folder"),
    ([f"--trace-dir={__file__}"], "cannot be made a folder"),
    (["--method=moco"], "invalid choice"),
  ],
)
def test_wrong_arguments_end_with_one_line(words, message, capsys):
  assert profile_step.main(words) == 2
  error = capsys.readouterr().err
  assert message in error and len(error.splitlines()) == 1


def test_no_script_hides_a_module_of_python():
  scripts = pathlib.Path(profile_step.__file__).parents[1].rglob("*.py")
  names = {path.stem for path in scripts}
  assert names.isdisjoint(sys.stdlib_module_names) and len(names) > 10
