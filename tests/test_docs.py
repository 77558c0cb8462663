"""What the documents name exists: links, recipes and flags, Python blocks."""

import pathlib
import re

import jax
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


def _python(name):
  (code,) = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)
  return code


def test_the_pure_parts_work_as_shown():
  random = np.random.default_rng(0)
  embeddings = random.normal(size=(2, 4, 8)).astype(np.float32)
  names = {
    "views": np.zeros((4, 32, 32, 3), np.float32),
    "projections1": embeddings[0],
    "projections2": embeddings[1],
    "logits": np.zeros((16, 4), np.float32),
  }
  exec(_python("README.md"), names)
  assert names["loss"] > 0.4 * np.log(4)  # the logits are equal
  assert names["rotated"].shape == (16, 32, 32, 3)
  assert names["labels"].tolist() == sorted([0, 1, 2, 3] * 4)


def test_the_step_of_your_own_works_as_shown():
  code = _python("docs/library.md")
  for wide, narrow in (
    ("depth=18", "depth=18, width=4, blocks=(1,)"),
    ("projector((2048, 2048)", "projector((16, 16)"),
    ("head((2048, 2048)", "head((16,)"),
  ):
    assert code.count(wide) == 1
    code = code.replace(wide, narrow)
  random = np.random.default_rng(0)
  names = {"images": random.integers(0, 256, (8, 32, 32, 3), np.uint8)}
  exec(code, names)
  assert 0.4 * np.log(4) < names["loss"] < 4
  first = names["init"](jax.random.key(0), names["images"])[0]
  changed = jax.tree.map(
    lambda old, new: bool(np.any(np.asarray(old != new))),
    first["params"],
    names["variables"]["params"],
  )
  assert any(jax.tree.leaves(changed["encoder"]))
  assert any(jax.tree.leaves(changed["head"]))
