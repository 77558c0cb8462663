"""The program with 64 bits switched on."""

import json

import program_helpers
import pytest


@pytest.mark.slow
def test_a_run_has_the_figures_of_32_bits(config_file, tmp_path, monkeypatch):
  """Losses to rounding, and the same accuracies: the draws do not change."""
  found = []
  for bits in ("0", "1"):
    monkeypatch.setenv("JAX_ENABLE_X64", bits)
    workdir = tmp_path / bits
    ended = program_helpers.run(config_file, workdir, "--config.epochs=2")
    assert ended.returncode == 0, ended.stderr
    lines = (workdir / "metrics-0.jsonl").read_text().splitlines()
    losses = [x["loss"] for x in map(json.loads, lines) if "loss" in x]
    found.append((losses, json.loads((workdir / "results.json").read_text())))
  (losses, results), (again, results_again) = found
  assert losses and again == pytest.approx(losses, rel=1e-4)
  for part in ("knn", "linear_probe"):
    figures, figures_again = (
      {k: x for k, x in y["figures"][part].items() if isinstance(x, float)}
      for y in (results, results_again)
    )
    assert figures and figures_again == pytest.approx(figures, rel=1e-3), part
