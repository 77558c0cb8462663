"""Links, recipes, flags and Python blocks of the documentation are valid."""

import dataclasses
import pathlib
import re

from docs_helpers import python_blocks
import jax
from jax.sharding import NamedSharding, PartitionSpec
from losses_helpers import OF_ONE_EXAMPLE, PAIRWISE
import numpy as np
import pytest

from essl_jax import augment, losses
from essl_jax import config as config_lib
from essl_jax.config import flags

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
  [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
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


def test_tests_of_faults_exist():
  page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
  rows = re.findall(r"^\| (\d+) \|.*`(\S+)::(\S+)` \|$", page, re.M)
  assert [int(number) for number, _, _ in rows] == list(range(1, 32))
  for _, file, function in rows:
    text = (ROOT / "tests" / file).read_text("utf-8")
    assert f"\ndef {function}(" in text, (file, function)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_recipes_and_variants_exist(page):
  text = page.read_text("utf-8")
  for recipe in re.findall(r"--config=([\w/.:,=]+)", text):
    recipe = recipe.rstrip(".,")
    if recipe not in YOURS:  # names of the package, or paths
      path = str(ROOT / recipe) if "/" in recipe else recipe
      config_lib.parse(flags.raw(path))
  for path in re.findall(
    r"`((?:configs|experiments|essl_jax)/[\w/]+\.py)`", text
  ):
    assert (ROOT / path).exists(), path


def test_the_pure_parts_work_as_shown():
  random = np.random.default_rng(0)
  embeddings = random.normal(size=(2, 4, 8)).astype(np.float32)
  names = {
    "views": np.zeros((4, 32, 32, 3), np.float32),
    "projections1": embeddings[0],
    "projections2": embeddings[1],
    "logits": np.zeros((16, 4), np.float32),
  }
  exec(python_blocks("README.md")[1], names)
  assert names["loss"] > 0.4 * np.log(4)  # the logits are equal
  assert names["rotated"].shape == (16, 32, 32, 3)
  assert names["labels"].tolist() == sorted([0, 1, 2, 3] * 4)


def _of_pairs(name, **axis):
  """The loss of a linear layer on pairs [N, 2, F]."""
  keywords = {} if name in OF_ONE_EXAMPLE else axis

  def loss(params, pairs):
    z1, z2 = pairs[:, 0] @ params, pairs[:, 1] @ params
    if name == "prediction":
      labels = jax.lax.stop_gradient(z2.argmax(1))
      return losses.transformation_prediction(z1, labels)
    return PAIRWISE[name](z1, z2, **keywords)

  return loss


@pytest.mark.parametrize("axes", ["explicit", "automatic"])
@pytest.mark.parametrize("name", [*PAIRWISE, "prediction"])
def test_gradients_on_four_devices_are_those_of_one(axes, name, monkeypatch):
  """Both ways that the page shows give what one device gives."""
  monkeypatch.setattr(jax, "device_count", lambda: 4)
  names = {"jax": jax, "losses": losses}
  code = python_blocks("docs/library.md")[1].partition("params = ")[0]
  if axes == "automatic":  # as the page says below
    assert code.count('("devices",))') == 1
    automatic = '("devices",), axis_types=(jax.sharding.AxisType.Auto,))'
    code = code.replace('("devices",))', automatic)
  exec(code, names)
  names["local_loss"] = _of_pairs(name, axis_name="devices")
  random = np.random.default_rng(0)
  params = random.normal(size=(8, 4)).astype(np.float32)
  pairs = random.normal(size=(16, 2, 8)).astype(np.float32)
  mesh = names["mesh"]
  assert mesh.size == 4
  placed = (
    jax.device_put(params, NamedSharding(mesh, PartitionSpec())),
    jax.device_put(pairs, NamedSharding(mesh, PartitionSpec("devices"))),
  )
  expected = jax.jit(jax.grad(_of_pairs(name)))(params, pairs)
  # Automatic axes take any arrays, explicit ones those that are placed.
  given = [placed, (params, pairs)] if axes == "automatic" else [placed]
  for way in ("gradient", "unchecked"):
    for arrays in given:
      found = jax.jit(names[way])(*arrays)
      np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_library_page_compares_its_two_ways(monkeypatch):
  monkeypatch.setattr(jax, "device_count", lambda: 4)
  names = {"jax": jax, "losses": losses}
  exec(python_blocks("docs/library.md")[1], names)
  assert names["mesh"].size == 4


def test_the_library_page_shares_and_applies_draws():
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (8, 24, 24, 3), np.uint8)
  code = python_blocks("docs/library.md")[2].replace("size=32", "size=8")
  names = {"jax": jax, "np": np, "augment": augment, "images": images}
  exec(code, names)
  parameters = names["parameters"]
  assert len(set(np.asarray(names["turns"]).tolist())) > 1
  page = (ROOT / "docs" / "library.md").read_text("utf-8")
  rows = re.findall(r"^\| (`.*?) \|", page.partition("`parameters.`")[2], re.M)
  listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
  fields = {field.name for field in dataclasses.fields(parameters)}
  assert listed == fields


def test_the_step_of_your_own_works_as_shown():
  code = python_blocks("docs/library.md")[0]
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
