"""Small versions of the ImageNet recipes, on a realistically untidy folder."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import program_helpers
import pytest

from essl_jax.storage import checkpoint, weights

CLASSES = ("ant", "bee", "cat")


def _photograph(number, size, mode="RGB"):
  """Smooth colours around a class's own colour, so classes differ."""
  random = np.random.default_rng(number)
  coarse = random.integers(0, 90, (4, 4, 3), np.uint8)
  coarse[..., number % 3] += 120
  return (
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)
  )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """48 + 12 images; grayscale, CMYK, 1x1, huge, truncated, not an image."""
  root = tmp_path_factory.mktemp("images")
  for split, count, first in (("train", 48, 0), ("val", 12, 1000)):
    for i in range(count):
      path = root / split / CLASSES[i % 3] / f"{i:02d}.jpg"
      path.parent.mkdir(parents=True, exist_ok=True)
      _photograph(first + i, (30 + i, 70 - i)).save(path)
  _photograph(0, (50, 40), "L").save(root / "train/ant/00.jpg")
  _photograph(1, (50, 40), "CMYK").save(root / "train/bee/01.jpg")
  _photograph(2, (1, 1)).save(root / "train/cat/02.jpg")
  _photograph(3, (4000, 3000)).save(root / "train/ant/03.jpg")
  whole = (root / "train/bee/04.jpg").read_bytes()
  (root / "train/bee/04.jpg").write_bytes(whole[: len(whole) // 2])
  (root / "train/cat/05.jpg").write_text("not an image")
  return root


def _start(*arguments):
  return subprocess.Popen(
    [sys.executable, "-m", *arguments],
    env=program_helpers.environment(),
    cwd=program_helpers.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["barlow_twins", "simclr", "simsiam"])
def test_tiny_recipe_from_images_to_exported_weights(method, folder, tmp_path):
  """Pre-train, kill, resume, probe, export."""
  workdir = tmp_path / "run"
  command = [
    "essl_jax.main",
    f"--config=configs/imagenet_{method}.py:tiny",
    f"--config.data.dir={folder}",
    f"--workdir={workdir}",
    "--config.epochs=4",
  ]
  killed = _start(*command)
  deadline = time.monotonic() + 200
  while not checkpoint.exists(workdir) and time.monotonic() < deadline:
    assert killed.poll() is None, killed.stderr.read()
    time.sleep(0.05)
  killed.send_signal(signal.SIGKILL)
  killed.communicate()

  resumed = _start(*command)
  printed, errors = resumed.communicate(timeout=280)
  assert resumed.returncode == 0, errors
  assert f"resuming {workdir} from step" in printed
  assert "biases and norms:" in printed
  for name in ("bee/04.jpg", "cat/05.jpg"):
    assert errors.count(name) == 1, errors
  results = json.loads((workdir / "results.json").read_text())
  assert results["training"]["steps"] == 12
  assert results["data"]["broken"]["train"]["number"] == 2
  assert results["data"]["broken"]["test"]["number"] == 0
  figures = results["figures"]
  assert figures["knn"]["bank_size"] == 46
  assert figures["linear_probe"]["num_test"] == 12
  assert len(figures["linear_probe"]["linear_top1_each"]) == 1

  file = tmp_path / "encoder.safetensors"
  export = _start("essl_jax.convert", "export", str(workdir), str(file))
  _, errors = export.communicate(timeout=100)
  assert export.returncode == 0, errors
  variables, metadata = weights.load(file)
  assert variables["params"]["encoder"]["conv1"]["kernel"].shape == (7, 7, 3, 8)
  assert metadata["depth"] == 18
