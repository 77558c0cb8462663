"""The documentation site: what its search finds first, and that it is built."""

import base64
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
HOW_TO = ROOT / "docs" / "howto"
# Words of users for the same wish, and the page that answers.
WORDS = {
  "features": "features",
  "embedding": "features",
  "extract": "features",
  "resume": "resume",
  "unlabelled": "own-images",
  "evaluate": "evaluate",
  "export": "export",
  "pod": "pod",
}


def _tags(page):
  """The words by which the search finds a page first."""
  found = re.match(r"---\ntags: \[(.*)\]\n---\n", page.read_text("utf-8"))
  return found[1].split(", ") if found else []


@pytest.mark.quick
def test_each_word_belongs_to_one_page():
  pages = [page for page in HOW_TO.glob("*.md") if page.stem != "index"]
  words = [word for page in pages for word in _tags(page)]
  assert all(map(_tags, pages))
  assert len(words) == len(set(words))
  for word, name in WORDS.items():
    assert word in _tags(HOW_TO / f"{name}.md"), word


@pytest.mark.quick
def test_each_page_has_a_place():
  config = (ROOT / "docs" / "site" / "mkdocs.yml").read_text("utf-8")
  nav = config.partition("\nnav:\n")[2]
  for page in (ROOT / "docs").rglob("*.md"):
    name = re.escape(str(page.relative_to(ROOT / "docs")))
    assert re.search(rf"[-:] {name}$", nav, re.M), name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """The site, built with warnings as errors."""
  if importlib.util.find_spec("mkdocs") is None:
    pytest.skip("needs pip install -e '.[docs]'")
  folder = tmp_path_factory.mktemp("site")
  command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
  command += [f"--config-file={ROOT / 'docs' / 'site' / 'mkdocs.yml'}"]
  done = subprocess.run(
    [*command, f"--site-dir={folder}"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return folder


@pytest.mark.slow
def test_the_search_knows_the_words(site):
  index = json.loads((site / "search" / "search_index.json").read_text())
  for word, name in WORDS.items():
    found = [x for x in index["docs"] if word in x.get("tags", ())]
    tagged = {x["location"].partition("#")[0] for x in found}
    assert tagged == {f"howto/{name}/"}, word


@pytest.mark.slow
def test_nothing_comes_from_elsewhere(site):
  """No script, style, font or picture of another server."""
  for page in site.rglob("*.html"):
    text = page.read_text("utf-8")
    loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]+)", text)
    loaded += re.findall(r"<link rel=\"stylesheet\" href=\"([^\"]+)", text)
    assert loaded
    assert not [x for x in loaded if x.startswith(("http", "//"))], page


@pytest.mark.slow
def test_code_recipes_and_docstrings_are_pages(site):
  text = (site / "recipes" / "index.html").read_text("utf-8")
  for recipe in (ROOT / "configs").glob("*.py"):
    assert f'id="{recipe.stem}"' in text
  text = (site / "api" / "losses" / "index.html").read_text("utf-8")
  assert 'id="essl_jax.losses.info_nce"' in text
  assert "Examples:" in text and "<p>&gt;&gt;&gt;" not in text
  code = site / "experiments" / "cifar10_table.py" / "index.html"
  assert "image_study" in code.read_text("utf-8")
  assert (site / "pictures" / "overview.png").exists()


@pytest.mark.quick
def test_notebooks_become_pages(tmp_path, monkeypatch):
  pytest.importorskip("mkdocs", reason="needs pip install -e '.[docs]'")
  path = ROOT / "docs" / "site" / "hooks.py"
  spec = importlib.util.spec_from_file_location("hooks", path)
  hooks = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(hooks)
  monkeypatch.setattr(hooks, "DOCS", tmp_path)
  shown = {"data": {"image/png": base64.b64encode(b"PNG").decode()}}
  code = {
    "cell_type": "code",
    "source": ["1 + 1\n", "2"],
    "outputs": [{"text": ["said\n"]}, {"data": {"text/plain": "2"}}, shown],
  }
  cells = [{"cell_type": "markdown", "source": "# Title"}, code]
  notebook = tmp_path / "a.ipynb"
  notebook.write_text(json.dumps({"cells": cells}))
  files = dict(hooks.notebook_pages(notebook))
  assert files["a-1.png"] == b"PNG"
  assert files["a.md"].split("\n\n") == [
    "# Title",
    "````python\n1 + 1\n2\n````",
    "````text\nsaid\n````",
    "````text\n2\n````",
    "![Output](a-1.png)",
  ]
  nav = [{"Start": ["index.md", {"A": "a.ipynb"}, {"B": "b.ipynb"}]}]
  assert hooks.with_notebooks(nav) == [{"Start": ["index.md", {"A": "a.md"}]}]
