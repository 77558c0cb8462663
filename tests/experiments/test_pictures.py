"""The pictures of the documentation: they exist, are small and can be drawn."""

import pathlib
import sys

import draw_pictures
import numpy as np
import panels
from PIL import Image
import pytest

from essl_jax.config import parts

PICTURES = pathlib.Path(__file__).parents[2] / "docs" / "pictures"


@pytest.mark.quick
def test_panels_are_of_methods_and_terms_that_exist():
  methods = set(parts.METHOD.names())
  assert {*panels.METHODS, *panels.SAME_AS} <= methods
  assert set(panels.SAME_AS.values()) <= set(panels.METHODS)
  assert set(panels.TERMS) <= set(parts.TERM.names())


@pytest.mark.quick
def test_the_pages_have_small_pictures():
  for name in draw_pictures.PICTURES:
    path = PICTURES / f"{name}.png"
    with Image.open(path) as picture:
      assert picture.width > 1200
    assert path.stat().st_size < 500_000


@pytest.mark.quick
def test_unknown_pictures_are_one_line(tmp_path, monkeypatch, capsys):
  words = ["draw_pictures.py", "cubism", f"--out={tmp_path}"]
  monkeypatch.setattr(sys, "argv", words)
  assert draw_pictures.main() == 2
  said = capsys.readouterr().err
  assert "unknown picture 'cubism'; there are: overview" in said


@pytest.mark.slow
def test_pictures_of_ones_own_are_drawn(tmp_path, monkeypatch):
  random = np.random.default_rng(0)
  given = [tmp_path / "a.png", tmp_path / "b.png"]
  for path in given:
    pixels = random.integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path)
  out = tmp_path / "out"
  words = ["draw_pictures.py", f"--out={out}", "--pictures", *map(str, given)]
  monkeypatch.setattr(sys, "argv", words)
  assert draw_pictures.main() == 0
  for name in draw_pictures.PICTURES:
    with Image.open(out / f"{name}.png") as picture:
      assert np.asarray(picture.convert("L")).std() > 20
