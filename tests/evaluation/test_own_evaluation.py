"""An evaluation of a user's own module, in all places that show figures."""

import json
import sys

from report_helpers import Page, report

from essl_jax import run as train

MODULE = '''
from essl_jax.evaluation import drawing
from essl_jax.evaluation.evaluation import Curve, Evaluation, Picture, Row


class PixelMean(Evaluation):
  """The mean of the test images.

  Attributes:
    scale: of the figure.
    every_epochs: how often it looks in training.
  """

  heading = "Brightness"
  ranks = "mean"
  circumstances = ("images",)
  scale: float = 1.0
  every_epochs: int = 1

  def monitor(self, bench, state):
    return {"mean": self.run(bench, state)["mean"]}

  @classmethod
  def curves(cls, figures):
    level = ("all images", figures["mean"]) if figures else None
    return {"mean": Curve("Brightness in training", "levels", level)}

  def run(self, bench, state):
    batch = next(bench.experiment.source.evaluation_batches("test", 40))
    mean = float(batch["image"].mean())
    figures = {"mean": self.scale * mean, "images": len(batch["image"])}
    return figures | {"sum": mean * len(batch["image"])}

  def rows(self, figures):
    note = f"{figures['images']} test images"
    before = figures["untrained"]["images"]
    note += f", {before} before training"
    return [Row("Brightness of images", f"{figures['mean']:.3f} levels", note)]

  @classmethod
  def pictures(cls, found):
    figure, axes = drawing.make_axes(2.0)
    axes.bar(list(found), [each["mean"] for each in found.values()])
    drawn = Picture(drawing.to_png(figure), "One bar a run.", "Brightness")
    return ["Brighter is not better.", drawn]
'''


def test_a_module_of_ones_own_shows_its_figures_everywhere(
  tiny_config, tmp_path, monkeypatch, capsys
):
  """In the terminal's table, `results.json` and the report, and as a curve."""
  (tmp_path / "own_evaluation.py").write_text(MODULE)
  workdir = tmp_path / "run"
  with monkeypatch.context() as patch:
    patch.syspath_prepend(tmp_path)
    patch.setenv("COLUMNS", "160")
    config = tiny_config(
      epochs=2,
      batch_size=32,
      equivariance={"weight": 0.0},
      data={"train_split": "train[:64]", "test_split": "test[:40]"},
      evaluations=("own_evaluation:PixelMean",),
      pixel_mean={"scale": 2.0},
      knn=None,
      probe=None,
      optimizer={"warmup_epochs": 0},
    )
    train.run(config, workdir)
    printed = capsys.readouterr().out
    report(workdir, "--images=0")
  results = json.loads((workdir / "results.json").read_text())
  mean = results["figures"]["pixel_mean"]["mean"]
  # A figure that only `run` returns belongs to the trained network.
  assert results["untrained"] == {"mean": mean, "images": 40}
  note = "40 test images, 40 before training"
  row = ["Brightness of images", f"{mean:.3f} levels", note]
  assert results["rows"] == {"pixel_mean": [row]}
  title, value, note = row
  assert f"{title} ({note})" in printed and value in printed
  page = Page((workdir / "report.html").read_text())
  assert all(text in page.text for text in row)
  assert "Brightness" in page.headings
  assert "Brighter is not better." in page.text
  alts = [image["alt"] for image in page.all("img")]
  assert alts[0] == "One bar a run."
  (curve,) = [x for x in alts if x.startswith("Brightness in training (levels")]
  assert f"by epoch. run: {mean:.4g} at epoch 0, {mean:.4g} at epoch 2" in curve

  # If the module is missing, the stored rows are shown.
  sys.modules.pop("own_evaluation")
  report(workdir, "--images=0")
  page = Page((workdir / "report.html").read_text())
  assert all(text in page.text for text in row)
  alts = [image["alt"] for image in page.all("img")]
  assert "One bar a run." not in alts
  assert any(x.startswith("Mean (value) by step. run: ") for x in alts)
  missing = "run: no pictures of own_evaluation:PixelMean"
  assert missing in page.text
