"""Facts about a run's recipe and images stay with the run."""

import json
import sys

import pytest

from essl_jax.storage import about

pytestmark = pytest.mark.quick


def test_entries_of_a_recipe_go_together_and_stay(tmp_path):
  own = {"recipe": "a", "overrides": ["--config.seed=1"], "recipe_folder": "/a"}
  about.write(tmp_path, own | {"classes": ["x"]})
  about.write(tmp_path, {"classes": ["y"]}, overwrite=True)
  assert about.read(tmp_path) == own | {"classes": ["y"]}
  about.write(tmp_path, {"recipe": "b", "classes": ["z"]})
  assert about.read(tmp_path) == own | {"classes": ["y"]}
  about.write(tmp_path, {"recipe": "b"}, overwrite=True)
  assert about.read(tmp_path) == {"recipe": "b"}
  about.write(tmp_path, own)  # the existing recipe had no flags
  assert about.read(tmp_path) == {"recipe": "b"}


def test_the_folder_of_a_recipe_comes_last(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", before := [*sys.path, str(tmp_path)])
  (tmp_path / "own").mkdir()
  for folder, added in (
    ("own", []),
    (str(tmp_path / "nowhere"), []),
    (str(tmp_path / "own"), [str(tmp_path / "own")]),
  ):
    found = list(before)
    monkeypatch.setattr(sys, "path", found)
    content = json.dumps({"recipe_folder": folder})
    (tmp_path / about.NAME).write_text(content)
    about.make_importable(tmp_path)
    assert sys.path == before + added
