"""Pages made from files only, figures computed from features, wrong input."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import photonics_helpers
import program_helpers
import pytest
from report_helpers import Page, report

from essl_jax.errors import UsageError
from essl_jax.report import analysis, opening, page, runs, samples
from essl_jax.training import step as step_lib


def test_analysis_against_numpy():
  random = np.random.default_rng(0)
  features, bank = random.normal(size=(2, 30, 6))
  rows, cosines = analysis.neighbours(features, bank, 3)
  for i, row in enumerate(rows):
    norms = np.linalg.norm(bank, axis=1) * np.linalg.norm(features[i])
    every = bank @ features[i] / norms
    np.testing.assert_array_equal(row, np.argsort(-every)[:3])
    np.testing.assert_allclose(cosines[i], every[row])
  values, rank = analysis.spectrum(features)
  eigenvalues = np.linalg.eigvalsh(np.cov(features.T))[::-1]
  np.testing.assert_allclose(values**2, eigenvalues / eigenvalues[0])
  assert 1 < rank < 6
  equal = np.eye(4)[np.arange(40) % 4]  # a simplex, of three dimensions
  assert analysis.spectrum(equal)[1] == pytest.approx(3, abs=1e-6)
  assert analysis.spectrum(np.ones((9, 4)))[1] == 0
  line = np.stack([np.arange(60.0), np.zeros(60)], axis=1)
  assert analysis.agreement(line, np.arange(60) // 30) > 85
  assert analysis.agreement(line, np.arange(60) % 2) < 60


def test_without_scikit_learn_the_map_is_pca(monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn", None)
  features = np.random.default_rng(0).normal(size=(20, 5))
  points, how = analysis.flatten(features)
  assert points.shape == (20, 2)
  assert how.startswith("PCA") and "scikit-learn" in how


def test_a_regression_is_shown_without_knn(tmp_path):
  errors = {"dos_error": 1.954, "dos_error_std": 0.067}
  errors |= {"dos_error_minimum_over_test": 1.94}
  density = np.linspace(0, 3, 400) * np.ones((4, 1))
  samples = {"true": density.tolist(), "predicted": (density + 0.5).tolist()}

  config = photonics_helpers.raw_config()
  generate = {"kind": "blob", "labelled": 20, "unlabelled": 10}
  config["data"] |= {"dir": str(tmp_path), "generate": generate}
  regression = {
    "by_labelled": {"256": errors, "512": errors},
    "dos_error_of_free_space": 3.67,
    "repetitions": 3,
    "epochs": 100,
    "samples": samples,
  }
  figures = {"regression": regression}
  figures["of_nobody"] = {"score": 0.25, "kind": "a", "matrix": [[1, 2]]}
  results = {"config": config, "figures": figures}
  (tmp_path / "results.json").write_text(json.dumps(results))
  report(tmp_path)
  shown = Page((tmp_path / "report.html").read_text())
  assert "Density of states" in shown.headings
  assert "1.95% ± 0.07" in shown.text and "3.67%" in shown.text
  assert "kNN" not in shown.text
  assert "DOS error, 256 labelled cells, lowest of all" in shown.text
  # Of an evaluation that is not here, and that stored no rows.
  assert "Of nobody: score" in shown.text and "matrix" not in shown.text
  alts = " ".join(image["alt"] for image in shown.all("img"))
  assert "1.95 ± 0.07% with 256" in alts
  assert "mean absolute difference 0.500" in alts
  assert "lacks unlabelled.h5" in shown.text  # and does not make cells
  assert not list(tmp_path.glob("*.h5"))


def test_cells_without_classes_are_shaded(tmp_path, monkeypatch):
  sizes = {"unlabelled": 48, "train": 24, "validation": 9, "test": 12}
  photonics_helpers.stand_in(monkeypatch, sizes)
  for split in sizes:
    (tmp_path / f"{split}.h5").touch()
  config = photonics_helpers.raw_config()
  config["data"]["dir"] = str(tmp_path)
  (tmp_path / "results.json").write_text(json.dumps({"config": config}))

  def restore(run, experiment):
    state = jax.device_get(experiment.create_state())
    return step_lib.encoder_variables(state), 0

  monkeypatch.setattr(opening, "restore", restore)
  (run,) = runs.read([str(tmp_path)])
  found = samples.collect(run, 10, print)
  assert not found.missing
  assert found.columns[2:] == [
    f"Transformed view, 32 px, {name}"
    for name in ("identity", "right", "down", "both")
  ]
  plain, right = (
    np.stack([row[k].pixels for row in found.views]) for k in (3, 4)
  )
  np.testing.assert_array_equal(right, np.roll(plain, 16, axis=2))
  cells = photonics_helpers.permittivities(12, list(sizes).index("test"))
  means = (cells.mean(axis=(1, 2)) - 1) / 19
  rows = [int(np.abs(means - x).argmin()) for x in found.values]
  assert rows == sorted(set(rows)) and len(rows) == 10
  np.testing.assert_allclose(found.values, means[rows], rtol=1e-5)
  assert found.right is None and len(found.neighbours[0]) == 6
  text = page.write([run], [found])
  assert "Coloured by mean permittivity, scaled to 0–1." in text


@pytest.fixture
def there(tmp_path_factory):
  """A folder that looks like a workdir."""
  workdir = tmp_path_factory.mktemp("there")
  (workdir / "results.json").write_text('{"config": {}}')
  return workdir


def _missing(folder, there):
  return [folder / "absent"], "is not a folder"


def _empty(folder, there):
  return [folder], "has no results.json.*--workdir=.*mode=evaluate"


def _broken(folder, there):
  (folder / "results.json").write_text('{"step": ')
  return [folder], "cannot read .*results.json"


def _twice(folder, there):
  (folder / "link").symlink_to(there)
  return [there, folder / "link"], "given twice"


def _in_no_folder(folder, there):
  return [there, f"--out={folder}/absent/page.html"], "cannot write .*--out"


def _onto_a_folder(folder, there):
  return [there, f"--out={folder}"], "is a folder: give the name of a file"


def _few(folder, there):
  return [there, "--images=3"], "--images=3 must be 10 or more"


def _unknown(folder, there):
  return [there, "--width=3"], "unrecognized arguments.*--help"


@pytest.mark.parametrize(
  "make",
  [
    _missing,
    _empty,
    _broken,
    _twice,
    _in_no_folder,
    _onto_a_folder,
    _few,
    _unknown,
  ],
)
def test_wrong_input_is_one_line(make, there, tmp_path):
  arguments, message = make(tmp_path, there)
  with pytest.raises(UsageError, match=message) as error:
    report(*arguments)
  assert "\n" not in str(error.value)


def test_the_program_ends_with_one_line(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "essl_jax.report", str(tmp_path / "absent")],
    env=program_helpers.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  assert re.fullmatch(r"error: .*is not a folder.*\n", done.stderr)
