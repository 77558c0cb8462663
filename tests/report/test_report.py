"""The page of runs: what is on it, how it is built, what it refuses."""

import json
import re
import shutil

import numpy as np
from PIL import Image
import program_helpers
import pytest
from report_helpers import Page, look, report

from essl_jax.evaluation import bench as bench_lib
from essl_jax.report import opening, runs, samples
from essl_jax.storage import checkpoint

CONFUSED = "Confusion matrix of rotation"
CONFUSION = [[30, 6, 3, 1], [4, 31, 2, 3], [9, 1, 28, 2], [0, 2, 3, 35]]


def _change(workdir, change):
  """Rewrites a workdir's results."""
  path = workdir / "results.json"
  results = json.loads(path.read_text())
  change(results)
  path.write_text(json.dumps(results))


@pytest.fixture(scope="module")
def trained(config_file, tmp_path_factory):
  """A run of two epochs, as a user trains it, on 64 digits."""
  workdir = tmp_path_factory.mktemp("runs") / "first"
  done = program_helpers.run(config_file, workdir, "--config.epochs=2")
  assert done.returncode == 0, done.stderr
  _change(workdir, lambda x: x["figures"]["transformation"].pop("confusion", 0))
  return workdir


@pytest.fixture(scope="module")
def second(trained):
  """A copy of it with all figures, another seed, and of an older version."""
  workdir = shutil.copytree(trained, trained.parent / "<i>second&")

  def change(results):
    del results["rows"]
    results["config"]["seed"] = 31
    results["figures"]["transformation"]["confusion"] = CONFUSION
    results["figures"]["collapse"] = {"effective_rank": 12.34567891}
    measures = {"cosine": 0.4321, "readout_accuracy": 46.05, "chance": 25.0}
    measures |= {"readout_penalty": 0.01}
    results["figures"]["symmetry"] = {"rotation": measures}

  _change(workdir, change)
  return workdir


@pytest.fixture(scope="module")
def written(trained, second):
  """The page of both runs."""
  out = trained.parent / "both.html"
  report(trained, second, f"--out={out}")
  return out


@pytest.fixture(scope="module")
def seen(trained):
  """The trained run, and what `samples.collect` returns for it."""
  run = runs.read([trained])[0]
  return run, samples.collect(run, 30, print)


def test_the_page_has_every_part(written, trained):
  page = Page(written.read_text())
  assert page.headings == [
    "Report of 2 runs",
    "Results",
    "kNN",
    "Transformation prediction",
    "Training",
    "Views",
    "Nearest neighbours",
    "Embedding",
    "Spectrum",
    "Config",
    "Environment",
  ]
  results = json.loads((trained / "results.json").read_text())
  figures = results["figures"]
  for value in (
    figures["knn"]["knn_top1"],
    results["untrained"]["knn_top1"],
    figures["linear_probe"]["linear_top1"],
    figures["transformation"]["transformation_accuracy"],
  ):
    assert f"{value:.2f}%" in page.text
  assert results["environment"]["jaxlib"] in page.text
  # Among the figures, and in the whole of the measure.
  assert page.text.count("12.3457") == 2
  # A figure in the first table, and with its circumstances below.
  read_out = "Under rotation: linear read-out of the element"
  assert page.text.count(read_out) == 1 and "46.05%" in page.text
  assert page.text.count("rotation.readout_penalty") == 1
  assert "first: results.json holds no confusion matrix" in page.text


def test_pictures_say_what_they_show(written):
  page = Page(written.read_text())
  images = page.all("img")
  alts = [image["alt"] for image in images]
  assert all(len(alt) > 15 for alt in alts)
  assert len(set(alts)) > 40
  confusion = next(alt for alt in alts if alt.startswith(CONFUSED))
  assert "0° 75.0%, 90° 77.5%, 180° 70.0%, 270° 87.5%" in confusion
  assert "180° taken for 0°, 22.5%" in confusion
  curve = next(alt for alt in alts if alt.startswith("kNN top-1 (%) by epoch"))
  assert "at epoch 0" in curve and "at epoch 2" in curve


def test_the_page_is_whole_and_accessible(written):
  text = written.read_text()
  page = Page(text)
  assert page.all("html") == [{"lang": "en"}]
  assert len(page.all("h1")) == 1
  assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
  assert not page.all("script") + page.all("link") + page.all("iframe")
  for name, attributes in page.elements:
    address = attributes.get("src", attributes.get("href", "#"))
    assert address.startswith(("#", "data:image/png;base64,")), name
  assert not re.search(r"url\(|@import|https?://", text)
  assert len(page.all("caption")) == len(page.all("table"))
  assert all(th["scope"] in ("row", "col") for th in page.all("th"))
  ids = [x["id"] for _, x in page.elements if "id" in x]
  assert len(ids) == len(set(ids))
  for section in page.all("section"):
    assert section["aria-labelledby"] in ids


def test_names_are_escaped_and_differences_marked(written):
  text = written.read_text()
  assert "<i>" not in text
  assert "&lt;i&gt;second&amp;" in text
  assert "<td>0</td><td>31</td>" in text  # among the differing fields
  assert '<td class="differs">31</td>' in text  # in the whole config


def test_features_are_those_of_the_evaluation(seen):
  run, found = seen
  experiment = opening.build(run)
  with checkpoint.Checkpoints(run.path, read_only=True) as checkpoints:
    state = checkpoints.restore(experiment.create_state())
  assert found.step == 8
  expected, labels = bench_lib.make(experiment).features(state, "test")
  # 30 of the 40 test images, in their order.
  rows = [
    int(np.abs(expected - x).max(axis=1).argmin()) for x in found.features
  ]
  assert rows == sorted(set(rows)) and len(rows) == 30
  np.testing.assert_allclose(found.features, expected[rows], atol=1e-5)
  np.testing.assert_array_equal(found.values, labels[rows])


def test_views_are_images_of_the_group(seen):
  for original, first, second, *transformed in seen[1].views:
    assert original.pixels.shape == (8, 8, 3)
    assert first.pixels.shape == second.pixels.shape == (16, 16, 3)
    assert len(transformed) == 4
    for turns, picture in enumerate(transformed):
      turned = np.rot90(transformed[0].pixels, turns)
      np.testing.assert_allclose(picture.pixels, turned, atol=1e-6)
    # The normalisation, which tints gray images, is undone.
    spread = np.ptp(first.pixels, axis=2)
    assert spread.max() < 1e-5
    assert np.ptp(first.pixels) > 0.3


def test_neighbours_are_marked(seen):
  _, found = seen
  assert found.bank == 64
  assert 0 < found.right <= 100
  for query, *near in found.neighbours:
    assert query.label >= 0 and len(near) == 5
    cosines = [float(picture.note) for picture in near]
    assert cosines == sorted(cosines, reverse=True)


def test_what_is_gone_is_said_in_a_line(trained, tmp_path, capsys):
  """The page of two runs, of which one lacks weights and one its data."""
  no_weights = shutil.copytree(trained, tmp_path / "no_weights")
  shutil.rmtree(no_weights / "checkpoints")
  no_data = shutil.copytree(trained, tmp_path / "no_data")
  gone = str(tmp_path / "gone.npz")
  _change(no_data, lambda x: x["config"]["data"].update(name=gone))
  with (no_data / "metrics-0.jsonl").open("a") as file:
    file.write('{"step": 9, "lo')
  report(no_weights, no_data)
  page = Page((no_weights / "report.html").read_text())
  assert (
    "no_weights: no neighbours, embedding and spectrum:"
    f" {no_weights} holds no checkpoint"
  ) in page.text
  assert "no_data: 1 broken line(s) of metrics-*.jsonl left out" in page.text
  assert f"no views, neighbours, embedding and spectrum: {gone}" in page.text
  assert "Views" in page.headings and "Embedding" not in page.headings
  assert "Training" in page.headings and "Spectrum" not in page.headings
  assert "Collapse: all values and settings" in page.text
  report(no_data, "--images=0")
  page = Page((no_data / "report.html").read_text())
  assert "--images=0 leaves them out" in page.text


@pytest.mark.skipif(
  shutil.which("chromium") is None, reason="no chromium on PATH"
)
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it(width, written, tmp_path):
  found, screenshot = look(written, tmp_path / "browser", width)
  assert found["inner"] == width
  assert found["scroll"] <= width
  assert found["broken"] == 0
  assert found["images"] == len(Page(written.read_text()).all("img"))
  with Image.open(screenshot) as picture:
    levels = np.asarray(picture.convert("L"))[:, :width]
  assert levels.std() > 10 and 100 < levels.mean() < 250
