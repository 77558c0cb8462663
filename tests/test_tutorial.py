"""The notebook docs/tutorial.ipynb: its form, its names, and a run of it."""

import ast
import importlib
import json
import os
import pathlib
import re

import program_helpers
import pytest

import essl_jax
from essl_jax.config import flags
from essl_jax.storage.workdir import dotted

PATH = pathlib.Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
MOST_BYTES = 500_000
# The pure parts, which docs/python.md calls public.
PURE = ("augment", "losses", "models", "optim", "transformations")


@pytest.fixture(scope="module")
def cells():
  return json.loads(PATH.read_text("utf-8"))["cells"]


def _source(cell):
  return "".join(cell["source"])


def _code(cells):
  """The code cells, as Python reads them: without magics."""
  sources = [_source(cell) for cell in cells if cell["cell_type"] == "code"]
  return [re.sub(r"^%.*\n", "", source) for source in sources]


def _printed(cell):
  """The text that a cell has printed or shown."""
  texts = [output.get("text", "") for output in cell["outputs"]]
  texts += [
    output.get("data", {}).get("text/plain", "") for output in cell["outputs"]
  ]
  return "".join("".join(text) for text in texts)


@pytest.mark.quick
def test_outputs_are_those_of_one_execution(cells):
  assert PATH.stat().st_size < MOST_BYTES
  assert 20 <= len(cells) <= 32
  code = [cell for cell in cells if cell["cell_type"] == "code"]
  numbers = [cell["execution_count"] for cell in code]
  assert numbers == list(range(1, len(code) + 1))
  for cell in code:
    kinds = [output["output_type"] for output in cell["outputs"]]
    assert "error" not in kinds
    # All that prints or shows something has done so.
    if re.search(r"^(print|show|plt\.show|row)\(|train\(", _source(cell), re.M):
      assert kinds, _source(cell)
    assert not re.search(r"/(root|home)/|site-packages", _printed(cell))
  drawn = [x for cell in code for x in cell["outputs"] if "data" in x]
  assert sum("image/png" in output["data"] for output in drawn) == 6


@pytest.mark.quick
def test_its_form_is_valid():
  nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
  nbformat.validate(nbformat.read(PATH, as_version=4))


@pytest.mark.quick
def test_only_public_names_are_used(cells):
  calls = ("train", "load", "embed", "evaluate")
  modules, used = {}, set()
  for tree in map(ast.parse, _code(cells)):
    for node in ast.walk(tree):
      if isinstance(node, ast.ImportFrom) and "essl_jax" in node.module:
        part = node.module.partition(".")[2]
        names = [name.name for name in node.names]
        assert set(names if not part else [part]) <= {*PURE, *essl_jax.__all__}
        for name in names if not part else []:
          modules[name] = importlib.import_module(f"essl_jax.{name}")
      if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        used.add((node.value.id, node.attr))
  assert set(modules) == {"augment", "losses", "transformations"}
  for module, name in used:
    if module == "essl_jax":
      assert name in essl_jax.__all__
    elif module in modules:
      assert not name.startswith("_") and hasattr(modules[module], name), name
  assert {("essl_jax", x) for x in calls} <= used
  assert {name for name, _ in used} >= {*modules, "essl_jax", "encoder"}


@pytest.mark.quick
def test_the_recipes_take_its_fields(cells, tmp_path, monkeypatch):
  """Each run's config, as `essl_jax.train` makes it of the cell."""
  monkeypatch.chdir(tmp_path)
  found = []
  monkeypatch.setattr(
    essl_jax, "train", lambda name, **fields: found.append((name, fields))
  )
  names = {"essl_jax": essl_jax}
  for code in _code(cells):
    if "essl_jax.train(" in code:
      exec(code, names)
  assert len(found) == 3
  workdirs = {fields.pop("workdir") for _, fields in found}
  assert len(workdirs) == 3
  values = [flags.load(name, dotted(fields)) for name, fields in found]
  weights = [value.equivariance.weight for value in values]
  assert weights[0] > 0 == weights[1] and weights[2] > 0
  assert values[2].equivariance.group == "strokes:GROUP"


@pytest.mark.slow  # it trains three times
def test_it_runs(tmp_path):
  nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
  nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
  pytest.importorskip("ipykernel", reason="ipykernel is not installed")
  book = nbformat.read(PATH, as_version=4)
  environment = program_helpers.environment() | {
    "PYTHONPATH": os.pathsep.join(
      [str(program_helpers.ROOT), os.environ.get("PYTHONPATH", "")]
    ),
    "TMPDIR": str(tmp_path),
  }
  client = nbclient.NotebookClient(book, timeout=3000, kernel_name="python3")
  client.execute(env=environment)
  text = "\n".join(_printed(x) for x in book.cells if x.cell_type == "code")
  lines = re.findall(r"^(with\S* E) +(.*)%$", text, re.M)
  rows = {name: [float(x) for x in row.split("%")] for name, row in lines}
  assert min(*rows["with E"][:2], *rows["without E"][:2]) > 90
  # What the text says of the third column, on any machine.
  assert rows["with E"][2] > rows["without E"][2]
