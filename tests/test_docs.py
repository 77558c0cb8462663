"""What the documents name exists: links, recipes and flags, Python blocks."""

import pathlib
import re

import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax.config import flags

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
  [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("experiments/*.md"),
    *ROOT.glob("experiments/profiling/*.md"),
  ]
)
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
# Recipes that a page tells its reader to write.
YOURS = ("my_recipe.py", "RECIPE")


def _prose(page):
  """A page without its blocks of code."""
  return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)


def _anchors(page):
  """The names that GitHub gives to the headings of a page."""
  for heading in re.findall(r"^#+ (.*)$", _prose(page), re.M):
    yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page):
  for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
    if not target.startswith("http"):
      name, _, anchor = target.partition("#")
      there = page.parent / name if name else page
      assert there.exists(), target
      assert not anchor or anchor in _anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_recipes_and_variants_exist(page):
  text = page.read_text("utf-8")
  for recipe in re.findall(r"--config=([\w/.:,=]+)", text):
    if recipe.rstrip(".,") not in YOURS:
      config_lib.parse(flags.raw(str(ROOT / recipe.rstrip(".,"))))
  for path in re.findall(
    r"`((?:configs|experiments|essl_jax)/[\w/]+\.py)`", text
  ):
    assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", ["README.md", "docs/library.md"])
def test_the_pure_parts_work_as_shown(name):
  (code,) = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)
  random = np.random.default_rng(0)
  embeddings = random.normal(size=(2, 4, 8)).astype(np.float32)
  names = {
    "images": np.zeros((4, 32, 32, 3), np.uint8),
    "views": np.zeros((4, 32, 32, 3), np.float32),
    "projections1": embeddings[0],
    "projections2": embeddings[1],
    "logits": np.zeros((16, 4), np.float32),
  }
  exec(code, names)
  arguments = ("projections1", "projections2", "logits", "labels")
  loss = names.get("loss") or names["loss_fn"](*(names[x] for x in arguments))
  assert loss > 0.4 * np.log(4)  # the logits are equal
  assert names["rotated"].shape == (16, 32, 32, 3)
  assert names["labels"].tolist() == sorted([0, 1, 2, 3] * 4)
