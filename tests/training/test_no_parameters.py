"""An encoder without parameters, such as fixed filters, works everywhere."""

import json

from report_helpers import Page

from essl_jax import run as run_lib
from essl_jax.convert import __main__ as convert
from essl_jax.report import __main__ as report

MEAN = '''
import flax.linen as nn

class Mean(nn.Module):
  """The mean colour of an image."""

  def __call__(self, images):
    return images.mean(axis=(1, 2))
'''


def test_training_evaluations_export_and_report(
  tmp_path, monkeypatch, tiny_config
):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "mean.py").write_text(MEAN)
  fields = {
    "encoder": {"name": "mean:Mean"},
    "epochs": 1,
    "data": {"train_split": "train[:320]", "test_split": "test[:40]"},
    "optimizer": {"warmup_epochs": 0},
    "evaluations": ("knn", "probe", "symmetry", "finetune"),
    "finetune": {"labels": 0.1, "epochs": 1, "batch_size": 16},
  }
  workdir, weights = tmp_path / "run", tmp_path / "mean.safetensors"
  run_lib.run(tiny_config("byol", **fields), workdir)
  tuned = tiny_config("byol", **fields, mode="finetune")
  run_lib.run(tuned, workdir)
  results = json.loads((workdir / "results.json").read_text())
  assert 0 <= results["figures"]["knn"]["knn_top1"] <= 100
  assert 0 <= results["finetune"]["10%"]["finetune_top1"] <= 100
  convert.main(["export", str(workdir), str(weights)])
  start = {"init_from": str(weights), "epochs": 0}
  again = tiny_config("byol", **fields | start)
  run_lib.run(again, tmp_path / "again")
  found = json.loads((tmp_path / "again" / "results.json").read_text())
  for name in ("knn", "linear_probe"):
    assert found["figures"][name] == results["figures"][name]
  report.main([str(workdir), f"--out={tmp_path / 'page.html'}"])
  assert "Nearest neighbours" in Page((tmp_path / "page.html").read_text()).text
