"""Starts the program on a tiny config, as a user does or in this process."""

import os
import pathlib
import subprocess
import sys

from absl.testing import flagsaver
import pytest
import xla_flags

from essl_jax import main

ROOT = pathlib.Path(__file__).parents[1]
TINY = """
from essl_jax.config import base, update_views, variants

def get_config(variant=None):
  chosen = variants(variant, {"baseline": "without equivariance"})
  config = base(method="simclr", data="digits")
  config.update(epochs=6, batch_size=16, log_every=1)
  config.checkpoint_every_epochs = 1
  config.data.update(train_split="train[:64]", test_split="test[:40]")
  update_views(config, size=16)
  config.views.third.size = 8
  # One block in place of eight: compiled in a fraction of the time.
  config.encoder.update(width=8, stem="cifar", blocks=(1,))
  config.projector.widths = (32, 32)
  config.equivariance.hidden_widths = (32,)
  config.equivariance.weight = 0.0 if chosen else 0.4
  config.optimizer.warmup_epochs = 1
  config.knn.update(k=20, every_epochs=2)
  config.probe.update(protocol="fast", epochs=3, repetitions=2, batch_size=64)
  return config
"""


def environment(devices=1):
  """This process's environment, with simulated devices."""
  return os.environ | {
    "XLA_FLAGS": xla_flags.make(devices),
    "PYTHONPATH": str(ROOT),
  }


def command(config_file, workdir, *flags, program=("-m", "essl_jax.main")):
  """The words of a start."""
  return [
    sys.executable,
    *program,
    f"--config={config_file}",
    f"--workdir={workdir}",
    *flags,
  ]


def end_this_start(code, line, **_):
  """In place of `processes.end`, which would end this process."""
  print(line, file=sys.stderr)
  sys.exit(code)


def refusal(monkeypatch, capsys, *arguments, code=2):
  """Returns what a start in this process says before it ends with `code`."""
  monkeypatch.setattr(sys, "argv", command(*arguments)[2:])
  # These settings are of a whole process, and this one continues.
  monkeypatch.setattr(main.cpu, "tune", lambda: None)
  monkeypatch.setattr(main.processes, "end", end_this_start)
  capsys.readouterr()
  with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
    main.run()
  assert end.value.code == code
  return capsys.readouterr().err


def run(*arguments):
  """One start, waited for."""
  return subprocess.run(
    command(*arguments),
    env=environment(),
    capture_output=True,
    text=True,
    timeout=280,
    check=False,
  )
