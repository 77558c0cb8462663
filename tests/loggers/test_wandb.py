"""Weights & Biases: with a stand-in for its package, and itself offline."""

import importlib
import io
import json
import sys
import time
import types

from PIL import Image
import pytest

from essl_jax.errors import UsageError
from essl_jax.loggers import logger, several
from essl_jax.storage import places

wandb_part = importlib.import_module("essl_jax.loggers.wandb")


class Run:
  """Stands in for a run of W&B."""

  def __init__(self, offline):
    self.calls, self.offline = [], offline
    self.dir, self.url = "/runs/a/wandb/offline-1/files", "https://a"

  def define_metric(self, *words, **options):
    """Records its arguments, as the others do."""
    self.calls.append(("define", words, options))

  def log(self, figures):
    """See above."""
    self.calls.append(("log", figures))

  def finish(self, exit_code):
    """See above."""
    self.calls.append(("finish", exit_code))


@pytest.fixture
def fake(monkeypatch):
  """The package, which records how runs are started."""
  module = types.ModuleType("wandb")
  module.begun, module.runs = [], []

  def init(**options):
    module.begun.append(options)
    module.runs.append(Run(options["mode"] == "offline"))
    return module.runs[-1]

  class Settings:
    """Settings of a version that does not know all of ours."""

    model_fields = ("console", "silent")

    def __init__(self, **options):
      self.options = options

  module.init, module.Settings = init, Settings
  module.Image = lambda image: ("image", image.size)
  monkeypatch.setitem(sys.modules, "wandb", module)
  return module


def start(tmp_path, kept=(), keep=None):
  """Logs a run that resumes from step 4."""
  return logger.Start(
    folder=tmp_path,
    name="run",
    step=4,
    config={"seed": 1},
    kept=dict(kept),
    keep=keep or (lambda _: None),
  )


@pytest.mark.quick
def test_one_run_goes_on_and_has_the_steps_of_the_training(fake, tmp_path):
  kept = []
  part = wandb_part.PART(project="p", mode="offline")
  log = part.open(start(tmp_path, keep=kept.append))
  assert log.where == "offline; `wandb sync /runs/a/wandb/offline-1` uploads it"
  log.write(5, {"loss": 0.5}, 1.0)
  buffer = io.BytesIO()
  Image.new("RGB", (3, 2)).save(buffer, "PNG")
  log.picture(5, "views", buffer.getvalue())
  log.close(is_finished=True)
  assert fake.runs[0].calls == [
    ("define", ("*",), {"step_metric": "step"}),
    ("log", {"step": 5, "loss": 0.5}),
    ("log", {"step": 5, "views": ("image", (3, 2))}),
    ("finish", 0),
  ]
  again = wandb_part.PART().open(start(tmp_path, kept[0]))
  again.close(is_finished=False)
  assert fake.runs[1].calls[-1] == ("finish", 1)
  assert again.where == "https://a"
  first, second = fake.begun
  assert first["id"] == second["id"] == kept[0]["id"]
  assert (first["resume"], first["project"]) == ("allow", "p")
  assert (first["dir"], first["config"]) == (str(tmp_path), {"seed": 1})
  assert first["settings"].options == {"console": "off", "silent": True}


@pytest.mark.quick
def test_a_missing_key_is_refused_unless_it_is_offline(tmp_path, monkeypatch):
  """W&B would ask for it in the terminal."""
  monkeypatch.setattr(wandb_part, "need", lambda *_: None)
  for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
    monkeypatch.delenv(name, raising=False)
  file = tmp_path / "netrc"
  monkeypatch.setenv("NETRC", str(file))
  with pytest.raises(UsageError, match=r"no API key: run `wandb login` first"):
    wandb_part.PART().check()
  wandb_part.PART(mode="offline").check()
  with monkeypatch.context() as patch:
    patch.setenv("WANDB_MODE", "offline")
    wandb_part.PART().check()
  with monkeypatch.context() as patch:
    patch.setenv("WANDB_API_KEY", "x")
    wandb_part.PART().check()
  file.write_text("machine api.wandb.ai login user password x\n")
  wandb_part.PART().check()
  monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
  with pytest.raises(UsageError, match="no API key"):
    wandb_part.PART().check()


@pytest.mark.slow
def test_wandb_itself_offline_goes_on_with_a_run(
  tmp_path, monkeypatch, tiny_config
):
  reason = "wandb is not installed: pip install 'essl-jax[wandb]'"
  pytest.importorskip("wandb", reason=reason)
  monkeypatch.setattr(several, "END_SECONDS", 120)
  config = tiny_config(loggers=("wandb",), wandb={"mode": "offline"})
  several.check(config)
  workdir = tmp_path / "run"
  for begin in (0, 3):
    said = []
    with several.Loggers(
      config, places.locate(workdir), say=said.append
    ) as loggers:
      loggers.begin(begin)
      for step in range(begin + 1, begin + 4):
        loggers.write(step, {"some_loss": step / 7}, time.time())
      loggers.finish()
    (line,) = said
    assert line.startswith(f"wandb: offline; `wandb sync {workdir}/wandb/")
  run_id = json.loads((workdir / "loggers.json").read_text())["wandb"]["id"]
  files = sorted(workdir.glob("wandb/offline-run-*/*.wandb"))
  assert [file.name for file in files] == [f"run-{run_id}.wandb"] * 2
  for file, step in zip(files, (1, 4), strict=True):
    content = file.read_bytes()
    assert b"some_loss" in content and str(step / 7).encode() in content
